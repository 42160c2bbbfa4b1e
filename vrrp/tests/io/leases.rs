//! Leases without a driver: the kernel ends them, and renewals keep them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtnetlink::Handle;
use tokio::sync::{mpsc, watch};
use vrrp::config::RouterConfig;
use vrrp::event::Applied;
use vrrp::io::address::{self, OnTaken, Report, Wanted, Wish};

use crate::lab::{Namespace, VIP, config, namespaces};

/// The index of the loopback interface, which every namespace has.
const LOOPBACK: u32 = 1;

/// Runs `act` with a netlink handle inside the namespace.
fn with_netlink<T: Send>(namespace: &Namespace, act: impl AsyncFnOnce(Handle) -> T + Send) -> T {
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
            let connection = tokio::spawn(connection);
            let result = act(handle).await;
            connection.abort();
            result
        })
    })
}

fn lease(namespace: &Namespace, address: Ipv4Addr) {
    with_netlink(namespace, async |handle: Handle| address::lease(&handle, LOOPBACK, address).await)
        .expect("the kernel takes the lease");
}

#[test]
fn a_lease_that_is_renewed_stays_and_lapses_one_second_after_the_last_renewal() {
    let Some((a, _)) = namespaces() else { return };
    a.ip("link set lo up");
    let start = Instant::now();
    let mut renewed = start;
    while start.elapsed() < Duration::from_millis(1800) {
        renewed = Instant::now();
        lease(&a, VIP);
        assert!(a.has_vip(), "it is there {:?} after the first renewal", start.elapsed());
        std::thread::park_timeout(address::RENEWAL);
    }
    let mut seen = renewed;
    loop {
        let looked = Instant::now();
        if !a.has_vip() {
            break;
        }
        seen = looked;
        assert!(renewed.elapsed() < Duration::from_secs(4), "it outlives its lease");
    }
    // It went between the last look that saw it and the first that did not.
    let (earliest, latest) = (seen - renewed, renewed.elapsed());
    eprintln!("lapsed {earliest:?} to {latest:?} after the last renewal");
    assert!(latest >= address::LEASE, "it went early: {latest:?}");
    assert!(earliest <= Duration::from_millis(1400), "it went late: {earliest:?}");
}

#[test]
fn a_release_takes_away_what_is_tagged_and_the_vips_and_nothing_else() {
    let Some((a, _)) = namespaces() else { return };
    let tagged = Ipv4Addr::new(192, 0, 2, 101);
    let foreign = Ipv4Addr::new(192, 0, 2, 102);
    a.ip("link add lan type veth peer name other");
    a.ip(&format!("addr add {VIP}/32 dev lan"));
    a.ip(&format!("addr add {foreign}/32 dev lan"));
    // The VIP of a router on this interface is none on another one.
    a.ip(&format!("addr add {VIP}/32 dev other"));
    a.ip("link set lo up");
    lease(&a, tagged);
    let released = with_netlink(&a, async |_: Handle| address::release(&[config(100)]).await);
    let mut released = released.expect("the kernel deletes them");
    released.sort();
    assert_eq!(released, [VIP, tagged]);
    assert!(!a.has(tagged), "every lease is tagged");
    assert!(a.has(foreign), "neither tagged nor a VIP");
    assert!(!a.ip("-4 addr show dev lan").contains("192.0.2.100/32"));
    assert!(a.ip("-4 addr show dev other").contains("192.0.2.100/32"));
}

#[test]
fn an_address_that_is_wanted_again_at_once_was_not_removed_by_somebody_else() {
    let Some((a, _)) = namespaces() else { return };
    a.ip("link set lo up");
    let (wish, wanted) = watch::channel(wanted(0, true));
    let (table, _links) = watch::channel(Arc::default());
    let (report, mut reports) = mpsc::channel(256);
    let again = wish.clone();
    // The next wish is there before the address goes.
    let on_taken: OnTaken = Box::new(move |_, _| {
        again.send_if_modified(|now| {
            let Some(Wish { order, held: false, .. }) = now.routers.values().next() else { return false };
            *now = self::wanted(order + 1, true);
            true
        });
    });
    let rounds = async {
        for round in 1..=100 {
            wish.send_replace(self::wanted(2 * round - 1, false));
            loop {
                let report = tokio::time::timeout(Duration::from_secs(2), reports.recv()).await;
                match report.expect("an answer in time") {
                    Some(Report::Applied { order, applied: Applied::Present, .. }) if order == 2 * round => break,
                    Some(Report::Applied { applied: Applied::Removed, .. }) => panic!("removed in round {round}"),
                    _ => {}
                }
            }
        }
    };
    with_netlink(&a, async move |_: Handle| {
        tokio::select! {
            ended = address::run(wanted, table, report, &on_taken) => panic!("it ended: {ended:?}"),
            () = rounds => {}
        }
    });
    assert!(a.has_vip());
}

/// The address of one router on the loopback interface, there or taken by somebody else.
fn wanted(order: u64, held: bool) -> Wanted {
    let config = Arc::new(RouterConfig { interface: "lo".into(), ..config(100) });
    let wish = Wish { order, config, held, taken: !held };
    Wanted { beat: Some(Instant::now()), routers: BTreeMap::from([(("lo".into(), 51), wish)]) }
}
