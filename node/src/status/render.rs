//! `lbnode status` for people: aligned columns, this node marked.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{
    Backend, Certificate, Frontend, HandOff, HttpStats, Node, Proxy, ProxyState, Responses, Role, Server, ServerState,
    Status, StickTableStats, Sync, SyncPath, SyncState, TlsStats, Vip,
};

/// Servers in trouble that the page has room for; `--json` has all of them.
const TROUBLED: usize = 20;

/// The whole page, with a line break at its end.
pub fn render(status: &Status) -> String {
    let mut page = headline(status);
    for reason in &status.degraded {
        page += &format!("  ! {reason}\n");
    }
    for node in &status.nodes {
        for reason in &node.reasons {
            page += &format!("  ! {}: {reason}\n", node.name);
        }
    }
    page += &status.sync.as_ref().map(sync_remarks).unwrap_or_default();
    if let Some(realtime) = &status.realtime {
        for (what, answer) in [("scheduling", &realtime.scheduling), ("memory lock", &realtime.memory_lock)] {
            if answer != "yes" {
                page += &format!("  ! realtime {what}: {answer}\n");
            }
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
    if let Some(log) = &status.traffic_log {
        if log.overrun > 0 {
            page += &format!("  ! {} log lines about clients were dropped: there were too many\n", log.overrun);
        }
        for sink in log.sinks.iter().filter(|sink| sink.dropped > 0) {
            page += &format!("  ! {} log lines about clients were dropped: {} took none\n", sink.dropped, sink.target);
        }
    }
    page += &backend_remarks(&status.backends);
    for table in status.stick_tables.iter().filter(|table| table.evicted > 0) {
        let (name, evicted) = (&table.name, grouped(table.evicted));
        page += &format!("  ! stick table {name}: {evicted} entries were evicted before their time: it is too small\n");
    }
    for table in status.stick_tables.iter().filter(|table| table.refused > 0) {
        let (name, refused) = (&table.name, grouped(table.refused));
        page += &format!("  ! stick table {name}: {refused} clients found no room beside those that are connected\n");
    }
    for sink in status.log.sinks.iter().filter(|sink| sink.dropped > 0) {
        page += &format!("  ! {} log lines were dropped: {} did not take them\n", sink.dropped, sink.target);
    }
    page += &certificate_remarks(&status.certificates);
    page += &table(
        &["NODE", "ROLE", "FIT", "PRIORITY", "PROXY", "REVISION", "SINCE"],
        status.nodes.iter().map(|node| (node.this, node_row(node))).collect(),
    );
    // Without a peer there are no terms, and no column for them.
    let terms = status.vips.iter().any(|vip| vip.term > 0);
    let mut titles = vec!["VIP", "ADDRESS", "VRID", "STATE", "HOLDER"];
    titles.extend(terms.then_some("TERM"));
    titles.extend(["ADVERTS", "LAST CHANGE"]);
    page += &table(&titles, status.vips.iter().map(|vip| (false, vip_row(vip, terms))).collect());
    page += &table(
        &["HAND-OFF", "TO", "STEP", "CONNECTIONS LEFT", "SINCE"],
        status.handoff.iter().map(|handoff| (false, handoff_row(handoff))).collect(),
    );
    if let Some(sync) = &status.sync {
        let row = |path: &SyncPath| (sync.path == Some(path.remote), path_row(path));
        page += &table(&["SYNC PATH", "TO", "HEARTBEAT"], sync.paths.iter().map(row).collect());
    }
    page += &table(&["FRONTEND", "BIND", "SESSIONS", "RATE", "BACKEND", "SERVERS UP"], frontend_rows(status));
    page += &table(&["SERVER", "ADDRESS", "STATE", "SINCE", "WHY"], troubled_rows(status));
    page += &table(&["HTTP", "REQUESTS", "2XX", "3XX", "4XX", "5XX", "DENIED", "REFUSED"], http_rows(status));
    page += &table(&["TLS", "FULL", "RESUMED", "FAILED"], tls_rows(status));
    page += &table(&["STICK TABLE", "ENTRIES", "SIZE", "HITS", "MISSES", "EVICTED", "REFUSED"], stick_rows(status));
    if let Some(limits) = &status.limits {
        page += &format!("\n  {} connections: {}\n", grouped(limits.connections), limits.derived);
    }
    page
}

/// Backends that serve nobody new; each server's reason is in a table below.
fn backend_remarks(backends: &[Backend]) -> String {
    let serves = |server: &Server| matches!(server.state, ServerState::Up | ServerState::Checking);
    let idle: Vec<&Backend> = backends.iter().filter(|backend| !backend.servers.iter().any(serves)).collect();
    let line = |backend: &&Backend| {
        let none = grouped(backend.no_server);
        format!("  ! backend {}: no server takes new clients; {none} found none so far\n", backend.name)
    };
    let mut text: String = idle.iter().take(TROUBLED).map(line).collect();
    if idle.len() > TROUBLED {
        text += &format!("  ! {} more such backends\n", idle.len() - TROUBLED);
    }
    text
}

/// What will hurt of certificates; they may be a thousand.
fn certificate_remarks(certificates: &[Certificate]) -> String {
    const MOST: usize = 5;
    let said: Vec<String> = certificates
        .iter()
        .flat_map(|one| one.warnings.iter().map(|warning| format!("  ! certificate {}: {warning}\n", one.name)))
        .collect();
    let mut text = said[..said.len().min(MOST)].concat();
    if said.len() > MOST {
        text += &format!("  ! {} more about certificates: lbnode cert list\n", said.len() - MOST);
    }
    text
}

fn headline(status: &Status) -> String {
    let own = status.config.revision;
    let node = status.this_node().map_or("this node", |node| &node.name);
    let peer = status.peer().and_then(|peer| Some((&peer.name, peer.revision?)));
    let mut line = match peer {
        Some((_, revision)) if revision == own => format!("{} · revision {own} on both nodes", status.pair.name),
        Some((peer, revision)) => format!("{} · revision {own} on {node}, {revision} on {peer}", status.pair.name),
        None => format!("{} · revision {own} on {node}", status.pair.name),
    };
    if let Some(sync) = &status.sync {
        line += &format!(" · {}", sync_words(sync, peer.is_some_and(|(_, revision)| revision == own)));
    }
    line += match (status.pair.redundant, &status.sync) {
        (Some(true), _) => " · a failover would work",
        (Some(false), _) => " · a failover would NOT work",
        (None, Some(_)) => " · whether a failover would work is not known",
        (None, None) if status.this_node().is_some_and(|node| node.role == Role::Alone) => " · no pair",
        (None, None) => " · the node file names no peer: run this there too",
    };
    line + "\n"
}

/// `same`: both nodes run the same revision.
fn sync_words(sync: &Sync, same: bool) -> String {
    let age = age(sync.since.age_seconds);
    match sync.state {
        SyncState::NotPaired => "sync not paired".into(),
        SyncState::Disconnected => format!("sync disconnected for {age}"),
        SyncState::Connected => {
            let state = if same { "in step" } else { "connected" };
            let (alive, all) = (sync.paths.iter().filter(|path| path.alive).count(), sync.paths.len());
            let paths = match (alive, all) {
                (1, 1) => "1 path".to_owned(),
                (alive, all) if alive == all => format!("{all} paths"),
                (alive, all) => format!("{alive} of {all} paths"),
            };
            match sync.rtt_ms {
                Some(rtt) => format!("sync {state} ({rtt:.1} ms, {paths})"),
                None => format!("sync {state} ({paths})"),
            }
        }
    }
}

/// What went wrong with the channel.
fn sync_remarks(sync: &Sync) -> String {
    let mut text = String::new();
    if let (SyncState::Disconnected, Some(error)) = (sync.state, &sync.last_error) {
        text += &format!("  ! sync with {}: {error}\n", sync.peer);
    }
    let refused: Vec<String> = sync
        .refused
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    if !refused.is_empty() {
        text += &format!("  ! sync connections refused: {}\n", refused.join(", "));
    }
    text
}

fn path_row(path: &SyncPath) -> Vec<String> {
    let heard = match (path.alive, path.age_ms) {
        (true, Some(age)) => format!("{age} ms ago"),
        (true, None) => "heard".into(),
        (false, Some(silent)) => format!("silent for {}", age(silent as f64 / 1000.0)),
        (false, None) => "never heard".into(),
    };
    vec![path.local.to_string(), path.remote.to_string(), heard]
}

fn handoff_row(handoff: &HandOff) -> Vec<String> {
    vec![
        handoff.vip.clone(),
        handoff.to.clone(),
        handoff.step.clone(),
        grouped(handoff.connections_left),
        format!("{} ago", age(handoff.since.age_seconds)),
    ]
}

fn node_row(node: &Node) -> Vec<String> {
    let role = match node.role {
        Role::Active => "active",
        Role::Standby => "standby",
        Role::Fault => "fault",
        Role::Maintenance => "maintenance",
        Role::Unreachable => "unreachable",
        Role::Alone => "alone",
    };
    let unknown = || "-".to_owned();
    vec![
        node.name.clone(),
        role.into(),
        if node.fit { "yes" } else { "no" }.into(),
        node.priority.map_or_else(unknown, |priority| priority.to_string()),
        node.proxy.as_ref().map_or_else(unknown, proxy_words),
        node.revision.map_or_else(unknown, |revision| revision.to_string()),
        age(node.since.age_seconds),
    ]
}

fn proxy_words(proxy: &Proxy) -> String {
    let mut words = match proxy.state {
        ProxyState::Ready => "up",
        ProxyState::Starting => "starting",
        ProxyState::Hung => "hung",
        ProxyState::Backoff => "restarting",
        ProxyState::CrashLoop => "crash loop",
        ProxyState::Draining => "draining",
        ProxyState::Stopped => "stopped",
    }
    .to_owned();
    if proxy.state == ProxyState::Ready {
        words += &proxy.since.as_ref().map_or(String::new(), |since| format!(" {}", age(since.age_seconds)));
        words += &proxy.workers.map_or(String::new(), |workers| format!(", {workers} w"));
    }
    match proxy.restarts {
        None | Some(0) => words,
        Some(restarts) => format!("{words}, {restarts} restarts"),
    }
}

fn vip_row(vip: &Vip, terms: bool) -> Vec<String> {
    let mut row = vec![
        vip.name.clone(),
        vip.address.to_string(),
        vip.vrid.to_string(),
        vip.state.to_string(),
        vip.holder.clone().unwrap_or_else(|| "nobody".into()),
    ];
    row.extend(terms.then(|| vip.term.to_string()));
    row.extend([format!("{} ms", vip.advert_interval_ms), format!("{} ago: {}", age(vip.since.age_seconds), vip.why)]);
    row
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
            if frontend.backend.is_empty() { "-".into() } else { frontend.backend.clone() },
            backend.map_or("-".into(), |backend| format!("{} of {}", up(backend), backend.servers.len())),
        ]
    });
    rows.map(|row| (false, row)).collect()
}

/// The first servers that clients are not sent to, or whose address may be old, and why.
fn troubled_rows(status: &Status) -> Vec<(bool, Vec<String>)> {
    let servers =
        status.backends.iter().flat_map(|backend| backend.servers.iter().map(move |server| (backend, server)));
    let row = |(backend, server): (&Backend, &Server)| {
        let check = server.check.as_ref();
        let problem = server.resolved.problem.clone();
        let why = match server.state {
            ServerState::Up | ServerState::Checking => problem?,
            ServerState::Down => problem.or_else(|| Some(check?.status.clone())).unwrap_or_default(),
            ServerState::Drain => "its weight is 0".into(),
            ServerState::Maintenance => String::new(),
        };
        let said = server.agent.as_ref().map(|said| format!("its agent: {said}"));
        let why: Vec<String> = [Some(why).filter(|why| !why.is_empty()), said].into_iter().flatten().collect();
        let state = match server.state {
            ServerState::Up => "up",
            ServerState::Checking => "checking",
            ServerState::Down => "down",
            ServerState::Drain => "drain",
            ServerState::Maintenance => "maintenance",
        };
        Some((
            false,
            vec![
                format!("{}/{}", backend.name, server.name),
                server.address.to_string(),
                state.into(),
                check.map_or("-".into(), |check| age(check.since.age_seconds)),
                if why.is_empty() { "-".into() } else { why.join("; ") },
            ],
        ))
    };
    servers.filter_map(row).take(TROUBLED).collect()
}

/// What became of the requests of each frontend that speaks HTTP.
fn http_rows(status: &Status) -> Vec<(bool, Vec<String>)> {
    let row = |frontend: &Frontend| {
        let HttpStats { requests, responses } = frontend.http?;
        let Responses { successful, redirection, client_error, server_error, .. } = responses;
        let counts = [requests, successful, redirection, client_error, server_error, frontend.denied];
        let mut cells = vec![frontend.name.clone()];
        cells.extend(counts.map(grouped));
        cells.push(most_frequent(&frontend.bad_requests));
        Some((false, cells))
    };
    status.frontends.iter().filter_map(row).collect()
}

/// What became of the handshakes of each frontend that speaks TLS.
fn tls_rows(status: &Status) -> Vec<(bool, Vec<String>)> {
    let row = |frontend: &Frontend| {
        let TlsStats { full, resumed, failed } = frontend.tls.as_ref()?;
        Some((false, vec![frontend.name.clone(), grouped(*full), grouped(*resumed), most_frequent(failed)]))
    };
    status.frontends.iter().filter_map(row).collect()
}

/// How full each stick table is, and what that cost.
fn stick_rows(status: &Status) -> Vec<(bool, Vec<String>)> {
    let row = |table: &StickTableStats| {
        let StickTableStats { name, size, entries, hits, misses, evicted, refused } = table;
        let counts = [u64::from(*entries), u64::from(*size), *hits, *misses, *evicted, *refused];
        let mut cells = vec![name.clone()];
        cells.extend(counts.map(grouped));
        (false, cells)
    };
    status.stick_tables.iter().map(row).collect()
}

/// The three reasons that were given most, and how often another one was.
fn most_frequent(reasons: &BTreeMap<String, u64>) -> String {
    let mut sorted: Vec<(&String, u64)> = reasons.iter().map(|(why, count)| (why, *count)).collect();
    sorted.sort_by_key(|(_, count)| Reverse(*count));
    let (first, others) = sorted.split_at(sorted.len().min(3));
    let mut words: Vec<String> = first.iter().map(|(why, count)| format!("{why} {}", grouped(*count))).collect();
    let others: u64 = others.iter().map(|(_, count)| count).sum();
    words.extend((others > 0).then(|| format!("others {}", grouped(others))));
    if words.is_empty() { "-".into() } else { words.join(", ") }
}

/// Columns as wide as their widest cell; a marked row begins with an arrow. Nothing at all without rows.
pub(crate) fn table(titles: &[&str], rows: Vec<(bool, Vec<String>)>) -> String {
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
