//! `log = { target, facility, format }`: where and how frontends log, and the sinks of all of them.

use proxy_core::plan::{self, Log, LogFormat, LogSink};

use super::super::reader::{Section, Value};
use super::Speaks;

/// RFC 5424 §6.2.1, by the names that syslog(3) and HAProxy give them.
const FACILITIES: [(&str, u8); 24] = [
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("ntp", 12),
    ("audit", 13),
    ("alert", 14),
    ("cron2", 15),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];
const LOCAL0: u8 = 16;

/// What one `log` says.
#[derive(Clone, Default)]
pub(super) struct Settings {
    target: Option<Target>,
    facility: Option<u8>,
    format: Option<LogFormat>,
}

#[derive(Clone)]
struct Target {
    text: String,
    syslog: bool,
}

/// `[defaults] log`.
pub(super) fn read_defaults(value: Value<'_>) -> Option<Settings> {
    let section = value.section()?;
    if !section.has("target") {
        section.report("`log` of [defaults] needs `target`");
    }
    Some(read_settings(section, None))
}

/// A frontend's own `log`, or the general one. `log = false` keeps a frontend silent.
pub(super) fn read(
    section: &Section<'_>,
    mode: Option<Speaks>,
    general: Option<&Settings>,
    sinks: &mut Vec<LogSink>,
) -> Option<Log> {
    let mut own = None;
    let mut silent = false;
    section.optional("log", |value| {
        if value.is_boolean() {
            silent = true;
            if value.clone().boolean()? {
                value.report("`log` is false, or a table such as { target = \"stdout\" }, not true");
            }
            return Some(());
        }
        if !value.is_table() {
            return value.mismatch("a table such as { target = \"syslog:127.0.0.1:514\" }, or false");
        }
        let inherited = general.and_then(|general| general.target.clone());
        let table = value.clone().section()?;
        if !table.has("target") && inherited.is_none() {
            value.report("`log` needs `target`, here or in [defaults]");
        }
        let read = read_settings(table, inherited);
        let format_of_the_other = match (read.format, mode) {
            (Some(LogFormat::Http), Some(Speaks::Tcp)) => Some("http"),
            (Some(LogFormat::Tcp), Some(Speaks::Http)) => Some("tcp"),
            _ => None,
        };
        if let Some(format) = format_of_the_other {
            value.report(format!("format `{format}` is of frontends with `mode = \"{format}\"`"));
        }
        own = Some(read);
        Some(())
    });
    if silent {
        return None;
    }
    let own = own.unwrap_or_default();
    let nothing = Settings::default();
    let general = general.unwrap_or(&nothing);
    let target = own.target.or(general.target.clone())?;
    let facility = own.facility.or(general.facility).unwrap_or(LOCAL0);
    let sink = LogSink { target: target.text, facility: target.syslog.then_some(facility) };
    let sink = sinks.iter().position(|known| *known == sink).unwrap_or_else(|| {
        sinks.push(sink);
        sinks.len() - 1
    });
    let haproxys = if mode == Some(Speaks::Tcp) { LogFormat::Tcp } else { LogFormat::Http };
    let format = match own.format.or(general.format) {
        Some(LogFormat::Json) => LogFormat::Json,
        // In [defaults] either word means HAProxy's line of the frontend's own mode.
        _ => haproxys,
    };
    Some(Log { sink, format })
}

/// The inherited target says whether a facility means something.
fn read_settings(section: Section<'_>, inherited: Option<Target>) -> Settings {
    let target = section.optional("target", read_target);
    let facility = section.optional("facility", |value| {
        let chosen = value.clone().choice(&FACILITIES)?;
        if let Some(target) = target.as_ref().or(inherited.as_ref()).filter(|target| !target.syslog) {
            value.report(format!("`{}` takes plain lines: a facility is for syslog", target.text));
        }
        Some(chosen)
    });
    let format = section.optional("format", |value| {
        value.choice(&[("http", LogFormat::Http), ("tcp", LogFormat::Tcp), ("json", LogFormat::Json)])
    });
    section.finish();
    Settings { target, facility, format }
}

fn read_target(value: Value<'_>) -> Option<Target> {
    let text = value.clone().string()?;
    let Some(named) = plan::Target::parse(&text) else {
        value.report(format!(
            "`{}` is no target: expected syslog:IP:PORT, syslog:/path/of/a/socket (at most 107 bytes), file:/path or stdout",
            text.escape_debug()
        ));
        return None;
    };
    let syslog = matches!(named, plan::Target::Udp(_) | plan::Target::Unix(_));
    Some(Target { syslog, text })
}
