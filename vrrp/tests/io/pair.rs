//! Two drivers: who is master, and who has the VIP.

use std::time::Duration;

use vrrp::config::RouterConfig;
use vrrp::event::State;
use vrrp::io::driver::Driver;

use crate::lab::{config, pair, router, state, until};

#[test]
fn the_higher_priority_holds_the_vip_and_the_other_takes_it_when_that_one_leaves() {
    let Some((a, b)) = pair() else { return };
    let (high, low) = (a.driver(200), b.driver(100));
    until("the higher priority is master alone", Duration::from_secs(5), || {
        state(&high) == State::Master && state(&low) == State::Backup && a.has_vip() && !b.has_vip()
    });
    high.join();
    assert!(!a.has_vip(), "a shutdown waits until the address is gone");
    until("the other one holds it", Duration::from_secs(2), || b.has_vip());
    assert_eq!(low.snapshot().routers[0].counters.priority_zero_received, 1);
    low.join();
    assert!(!b.has_vip());
}

#[test]
fn when_the_link_goes_down_the_holder_lets_go_and_when_it_is_back_holds_again() {
    let Some((a, b)) = pair() else { return };
    let (high, low) = (a.driver(200), b.driver(100));
    until("the higher priority holds it", Duration::from_secs(5), || a.has_vip() && state(&low) == State::Backup);
    a.ip("link set lan down");
    until("the holder let go", Duration::from_secs(2), || !a.has_vip() && state(&high) == State::Fault);
    // A veth has no carrier when its other end is down: here both ends see it.
    until("both are in fault", Duration::from_secs(2), || state(&low) == State::Fault);
    a.ip("link set lan up");
    until("it is back", Duration::from_secs(5), || a.has_vip() && !b.has_vip() && state(&low) == State::Backup);
}

#[test]
fn a_vip_that_was_deleted_behind_our_back_is_put_back() {
    let Some((a, b)) = pair() else { return };
    let (high, _low) = (a.driver(200), b.driver(100));
    until("the higher priority holds it", Duration::from_secs(5), || a.has_vip());
    a.ip("addr del 192.0.2.100/32 dev lan");
    until("it is back", Duration::from_millis(500), || a.has_vip());
    assert_eq!(state(&high), State::Master);
}

#[test]
fn a_vip_that_a_predecessor_left_behind_is_taken_away_at_the_start() {
    let Some((a, _b)) = pair() else { return };
    a.ip("addr add 192.0.2.100/32 dev lan");
    let driver = a.driver(100);
    until("it is gone, and counted", Duration::from_secs(2), || !a.has_vip() && driver.snapshot().leftovers == 1);
}

#[test]
fn when_the_holder_falls_silent_the_other_takes_over_and_when_it_is_heard_again_one_remains() {
    let Some((a, b)) = pair() else { return };
    let (high, low) = (a.driver(200), b.driver_of(vec![RouterConfig { preempt: None, ..config(100) }]));
    until("the higher priority holds it", Duration::from_secs(5), || a.has_vip() && state(&low) == State::Backup);
    // Nothing leaves either of them any more, ARP included; the carrier stays.
    for namespace in [&a, &b] {
        namespace.nft("add table netdev cut");
        namespace.nft("add chain netdev cut out { type filter hook egress device lan priority 0; policy drop; }");
    }
    // Three intervals and the skew of priority 100 are 361 ms; the rest is for a busy machine.
    let took = until("the other one holds it", Duration::from_millis(1500), || b.has_vip());
    eprintln!("taken over {took:?} after the cut");
    assert_eq!(state(&low), State::Master);
    assert!(a.has_vip(), "nobody told the first one");
    for namespace in [&a, &b] {
        namespace.nft("delete table netdev cut");
    }
    until("one remains", Duration::from_secs(2), || {
        a.has_vip() && !b.has_vip() && state(&high) == State::Master && state(&low) == State::Backup
    });
    let dual_active = |driver: &Driver| router(driver).map_or(0, |router| router.counters.dual_active);
    // Which one hears the other first is chance; it steps down or stays, and says so.
    until("one says that there were two", Duration::from_secs(1), || dual_active(&high) + dual_active(&low) > 0);
    assert_eq!(router(&high).expect("a router").counters.master_transitions, 1);
}
