//! `lbnode status` for people: aligned columns, this node marked.

use super::{Backend, Node, ProxyState, Role, ServerState, Status, Vip};

/// The whole page, with a line break at its end.
pub fn render(status: &Status) -> String {
    let mut page = headline(status);
    for node in &status.nodes {
        for reason in &node.reasons {
            page += &format!("  ! {}: {reason}\n", node.name);
        }
    }
    for (what, answer) in [("scheduling", &status.realtime.scheduling), ("memory lock", &status.realtime.memory_lock)] {
        if answer != "yes" {
            page += &format!("  ! realtime {what}: {answer}\n");
        }
    }
    if let Some(dual) = &status.dual_active {
        let length = dual.length_ms.map_or("an unknown time".to_owned(), |length| format!("{length} ms"));
        let ago = age(dual.since.age_seconds);
        page += &format!("  ! {} was held by {} as well for {length}; it ended {ago} ago\n", dual.vip, dual.other);
    }
    if status.log.dropped > 0 {
        page += &format!("  ! {} log lines were dropped: nobody read them in time\n", status.log.dropped);
    }
    page += &table(
        &["NODE", "ROLE", "FIT", "PRIORITY", "PROXY", "REVISION", "SINCE"],
        status.nodes.iter().map(|node| (node.this, node_row(node))).collect(),
    );
    page += &table(
        &["VIP", "ADDRESS", "VRID", "STATE", "HOLDER", "ADVERTS", "LAST CHANGE"],
        status.vips.iter().map(|vip| (false, vip_row(vip))).collect(),
    );
    page += &table(&["FRONTEND", "BIND", "SESSIONS", "RATE", "BACKEND", "SERVERS UP"], frontend_rows(status));
    if let Some(limits) = &status.limits {
        page += &format!("\n  {} connections: {}\n", grouped(limits.connections), limits.derived);
    }
    page
}

fn headline(status: &Status) -> String {
    let node = status.this_node().map_or("this node", |node| &node.name);
    let mut line = format!("{} · revision {} on {node}", status.pair.name, status.config.revision);
    line += match status.pair.redundant {
        Some(true) => " · a failover would work",
        Some(false) => " · a failover would NOT work",
        None => " · the peer is not asked in this version: run this there too",
    };
    line + "\n"
}

fn node_row(node: &Node) -> Vec<String> {
    let role = match node.role {
        Role::Active => "active",
        Role::Standby => "standby",
        Role::Fault => "fault",
        Role::Maintenance => "maintenance",
        Role::Unreachable => "unreachable",
    };
    let proxy = match node.proxy.state {
        ProxyState::Ready => format!("up {}, {} w", age(node.proxy.since.age_seconds), node.proxy.workers),
        ProxyState::Starting => "starting".into(),
        ProxyState::Hung => "hung".into(),
        ProxyState::Backoff => "restarting".into(),
        ProxyState::CrashLoop => "crash loop".into(),
        ProxyState::Draining => "draining".into(),
        ProxyState::Stopped => "stopped".into(),
    };
    let restarts = if node.proxy.restarts == 0 { String::new() } else { format!(", {} restarts", node.proxy.restarts) };
    vec![
        node.name.clone(),
        role.into(),
        if node.fit { "yes" } else { "no" }.into(),
        node.priority.to_string(),
        proxy + &restarts,
        node.revision.to_string(),
        age(node.since.age_seconds),
    ]
}

fn vip_row(vip: &Vip) -> Vec<String> {
    vec![
        vip.name.clone(),
        vip.address.to_string(),
        vip.vrid.to_string(),
        vip.state.to_string(),
        vip.holder.clone().unwrap_or_else(|| "nobody".into()),
        format!("{} ms", vip.advert_interval_ms),
        format!("{} ago: {}", age(vip.since.age_seconds), vip.why),
    ]
}

fn frontend_rows(status: &Status) -> Vec<(bool, Vec<String>)> {
    let up = |backend: &Backend| backend.servers.iter().filter(|server| server.state == ServerState::Up).count();
    let rows = status.frontends.iter().map(|frontend| {
        let backend = status.backends.iter().find(|backend| backend.name == frontend.backend);
        vec![
            frontend.name.clone(),
            frontend.binds.join(", "),
            grouped(frontend.sessions),
            frontend.rate.map_or("-".into(), |rate| format!("{rate:.0}/s")),
            frontend.backend.clone(),
            backend.map_or("-".into(), |backend| format!("{} of {}", up(backend), backend.servers.len())),
        ]
    });
    rows.map(|row| (false, row)).collect()
}

/// Columns as wide as their widest cell; a marked row begins with an arrow. Nothing at all without rows.
fn table(titles: &[&str], rows: Vec<(bool, Vec<String>)>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
    let widths: Vec<usize> = (0..titles.len())
        .map(|column| {
            let cells = rows.iter().map(|(_, cells)| &cells[column]).chain([&titles[column]]);
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let line = |mark: &str, cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{mark} {}", padded.collect::<Vec<_>>().join("  ")).trim_end().to_owned() + "\n"
    };
    let mut text = format!("\n{}", line(" ", &titles));
    for (marked, cells) in &rows {
        text += &line(if *marked { "▸" } else { " " }, cells);
    }
    text
}

/// The two largest units of an age.
fn age(seconds: f64) -> String {
    // An age is far below 2^53 seconds, and below zero it is none.
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Thousands apart: 1,204.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
