//! `cluster.toml`: what both nodes share. The VIPs are here, frontends and backends in `proxy`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use proxy_core::plan::Plan;
use vrrp::types::{Interval, Vrid};

use super::diagnostic::{Findings, Place};
use super::files::{Contents, Files};
use super::node::ipv4;
use super::proxy;
use super::reader::{Section, Value};
use crate::certificates::{Known, Warning};

/// What a cluster file starts its tables with.
pub(super) const TOP_LEVEL: [&str; 10] =
    ["pair", "vip", "defaults", "list", "certificate", "ca", "tls", "stick_table", "frontend", "backend"];

/// A checked cluster file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// What the pair is called.
    pub name: String,
    /// What an active node does that neither its peer nor anybody else on the network hears.
    pub on_isolation: OnIsolation,
    /// How long clients may stay with the node that handed their VIP over; `None`: as long as they like.
    pub handoff_timeout: Option<Duration>,
    /// In the order of their names.
    pub vips: Vec<Vip>,
    /// What the proxy core runs; its `revision` is 0 until the agent numbers it.
    pub plan: Plan,
    /// The binds of each frontend of `plan`, as they are written.
    pub bind_names: Vec<Vec<String>>,
    /// What the files say that it names. Whoever keeps the text keeps these as well, for [`super::parse_kept`].
    pub files: Contents,
    /// The certificates of `plan`, in its order, for people.
    pub certificates: Vec<CertificateEntry>,
    /// What will hurt of what is not a certificate of ours.
    pub remarks: Vec<Remark>,
}

/// A certificate as people are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateEntry {
    /// Its name in the file.
    pub name: String,
    /// Where it is written.
    pub place: Place,
    /// What it says, and what will hurt.
    pub known: Known,
}

/// A warning with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Where it is written.
    pub place: Place,
    /// Of what, by its name in the file.
    pub what: String,
    /// What will hurt.
    pub warning: Warning,
}

impl ClusterConfig {
    /// What is no mistake and will hurt, or hurts at that time; each with its place. Without the line itself: it may have
    /// a password in it.
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
        let of_certificates = self.certificates.iter().flat_map(|entry| {
            let known = entry.known.warnings.iter();
            known.map(move |warning| (&entry.place, format!("certificate `{}`", entry.name), warning))
        });
        let others = self.remarks.iter().map(|remark| (&remark.place, remark.what.clone(), &remark.warning));
        let said = of_certificates.chain(others).filter_map(|(place, what, warning)| {
            let diagnostic = place.diagnostic(format!("{what}: {}", warning.said(now)?));
            Some(format!("{}: {}", diagnostic.place(), diagnostic.message))
        });
        said.collect()
    }
}

/// What an active node does that is cut off from its peer and cannot tell who else is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnIsolation {
    /// It goes on: two nodes may then serve at once.
    #[default]
    Serve,
    /// It gives its VIPs up: nobody may then serve.
    Yield,
}

/// A floating address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// Its name.
    pub name: String,
    /// Installed as /32.
    pub address: Ipv4Addr,
    /// Virtual router identifier.
    pub vrid: Vrid,
    /// How often its holder says so.
    pub advert_interval: Interval,
    /// Take over from a lower priority after having been fit for so long; `None`: never.
    pub preempt: Option<Duration>,
    /// Where its VRID is written.
    pub vrid_place: Place,
}

pub(super) fn read<'a>(root: Section<'a>, findings: &'a Findings<'a>, files: Files<'_>) -> Option<ClusterConfig> {
    let pair = root.required("pair", |value| {
        let section = value.section()?;
        let name = section.required("name", Value::string);
        let on_isolation = section.optional("on_isolation", |value| {
            value.choice(&[("serve", OnIsolation::Serve), ("yield", OnIsolation::Yield)])
        });
        section.finish();
        Some((name?, on_isolation.unwrap_or_default()))
    });
    let vips = root.optional("vip", |value| Some(read_vips(value.section()?))).unwrap_or_default();
    let addresses: BTreeMap<String, Option<Ipv4Addr>> = vips.names;
    let proxy::Read { plan, bind_names, handoff_timeout, certificates, remarks } =
        proxy::read(&root, &addresses, &files);
    root.finish();
    // A model with holes is never handed out: whoever left one reported it.
    findings.is_empty().then_some(())?;
    let (name, on_isolation) = pair?;
    Some(ClusterConfig {
        name,
        on_isolation,
        handoff_timeout,
        vips: vips.complete,
        plan,
        bind_names,
        files: files.into_contents(),
        certificates,
        remarks,
    })
}

/// The VIPs that were read, and the names of all, so that a broken one is not called unknown as well.
#[derive(Default)]
struct Vips {
    complete: Vec<Vip>,
    names: BTreeMap<String, Option<Ipv4Addr>>,
}

fn read_vips(section: Section<'_>) -> Vips {
    let mut vips = Vips::default();
    for (name, _, value) in section.entries() {
        let Some(table) = value.section() else {
            vips.names.insert(name.to_owned(), None);
            continue;
        };
        let names = &vips.names;
        let address = table.required("address", |value| {
            let address = ipv4(value.clone())?;
            if address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast() {
                value.report(format!("`{address}` cannot be a VIP: expected an address of a host"));
                return None;
            }
            if let Some((other, _)) = names.iter().find(|(_, known)| **known == Some(address)) {
                value.report(format!("`{address}` is the address of the VIP `{other}` already"));
            }
            Some(address)
        });
        let vip = read_vip(name, &table, address);
        table.finish();
        vips.names.insert(name.to_owned(), address);
        vips.complete.extend(vip);
    }
    vips
}

fn read_vip(name: &str, table: &Section<'_>, address: Option<Ipv4Addr>) -> Option<Vip> {
    let vrid = table.required("vrid", |value| {
        let place = value.place();
        let vrid = value.integer(1..=255i64).and_then(|number| Vrid::try_from(number).ok())?;
        Some((vrid, place))
    });
    let advert_interval = table.optional("advert_interval", |value| {
        let length = value.clone().duration(Duration::from_millis(10)..=Duration::from_millis(40_950))?;
        let interval = Interval::try_from(length);
        interval.map_err(|error| value.report(error.to_string())).ok()
    });
    let preempt = table.optional("preempt", Value::boolean).unwrap_or(true);
    let delay = table.optional("preempt_delay", |value| {
        if !preempt {
            value.report("`preempt_delay` does nothing with `preempt = false`; leave one of them out");
        }
        value.duration(Duration::ZERO..=Duration::from_secs(1000))
    });
    let default = || Interval::from_centiseconds(10).expect("ten centiseconds are an interval");
    let (vrid, vrid_place) = vrid?;
    Some(Vip {
        name: name.to_owned(),
        address: address?,
        vrid,
        advert_interval: advert_interval.unwrap_or_else(default),
        preempt: preempt.then_some(delay.unwrap_or_default()),
        vrid_place,
    })
}
