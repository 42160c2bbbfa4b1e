//! The first client at an address since a moment: the agent watches an address (a VIP that has just come), and the
//! worker that accepts the first client there leaves the time.
//!
//! It lies in the memory that the two processes share (see [`crate::beat`]) and is made of atomics alone: nobody ever
//! waits here, and while nothing is watched an accepted client costs one relaxed load.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// Addresses that can be watched at a time; a further one takes the place of the one that was watched longest ago.
pub(crate) const MAX_WATCHES: usize = 16;

/// Tells the time when watching began from the time when a client came: the monotonic clock never gets here.
const ARMED: u64 = 1 << 63;

/// All watches, shared by all workers: each line of the cache is only read until a first client comes.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(crate) struct Watches {
    /// A bit for each place that a worker has to look at. Only the agent writes it.
    armed: AtomicU64,
    places: [Watch; MAX_WATCHES],
}

/// One watched address.
#[repr(C)]
#[derive(Debug, Default)]
struct Watch {
    /// 0: not in use. With [`ARMED`]: watched since then. Without: when the first client came. Nanoseconds.
    /// Changing it is what makes a worker's write fail that still has the address before in mind.
    since: AtomicU64,
    /// As IPv6, the upper half first.
    address: [AtomicU64; 2],
}

impl Watches {
    /// From `now` on; what was known of this address is forgotten. Callers take turns: of two at the same moment one
    /// may lose its watch.
    pub(crate) fn watch(&self, address: IpAddr, now: u64) {
        let oldest = || (0..MAX_WATCHES).min_by_key(|place| self.places[*place].since.load(SeqCst) & !ARMED);
        let Some(place) = self.find(address).or_else(oldest) else { return };
        let (watch, halves) = (&self.places[place], halves(address));
        watch.since.store(0, SeqCst);
        watch.address[0].store(halves[0], SeqCst);
        watch.address[1].store(halves[1], SeqCst);
        watch.since.store(now & !ARMED | ARMED, SeqCst);
        self.armed.fetch_or(1 << place, SeqCst);
    }

    /// When the first client came; `None`: none yet, or the address is not watched.
    pub(crate) fn first(&self, address: IpAddr) -> Option<u64> {
        let place = self.find(address)?;
        let since = self.places[place].since.load(SeqCst);
        if since & ARMED != 0 {
            return None;
        }
        // The workers need not look here any more.
        self.armed.fetch_and(!(1 << place), SeqCst);
        Some(since)
    }

    /// Nobody waits for a client at this address any more.
    pub(crate) fn forget(&self, address: IpAddr) {
        let Some(place) = self.find(address) else { return };
        self.armed.fetch_and(!(1 << place), SeqCst);
        self.places[place].since.store(0, SeqCst);
    }

    pub(crate) fn clear(&self) {
        self.armed.store(0, SeqCst);
        self.places.iter().for_each(|watch| watch.since.store(0, SeqCst));
    }

    /// A worker accepted a client. `local` is asked only while an address is watched, `now` only for a first client.
    #[inline]
    pub(crate) fn accepted(&self, local: impl FnOnce() -> Option<IpAddr>, now: impl Fn() -> u64) {
        if self.armed.load(Relaxed) != 0 {
            self.look(local, now);
        }
    }

    #[cold]
    fn look(&self, local: impl FnOnce() -> Option<IpAddr>, now: impl Fn() -> u64) {
        let armed = self.armed.load(SeqCst);
        let seen = (0..MAX_WATCHES).filter(|place| armed & 1 << place != 0).map(|place| &self.places[place]);
        let mut waiting = seen.map(|watch| (watch, watch.since.load(SeqCst))).filter(|(_, since)| since & ARMED != 0);
        let Some(first) = waiting.next() else { return };
        let Some(local) = local().map(halves) else { return };
        for (watch, since) in std::iter::once(first).chain(waiting) {
            if watch.holds(local) {
                // Fails if another worker was first, or if the agent watches anew: then it was no client of that watch.
                let _ = watch.since.compare_exchange(since, now() & !ARMED, SeqCst, SeqCst);
            }
        }
    }

    fn find(&self, address: IpAddr) -> Option<usize> {
        let halves = halves(address);
        self.places.iter().position(|watch| watch.since.load(SeqCst) != 0 && watch.holds(halves))
    }
}

impl Watch {
    fn holds(&self, halves: [u64; 2]) -> bool {
        [self.address[0].load(SeqCst), self.address[1].load(SeqCst)] == halves
    }
}

/// IPv4 as mapped into IPv6, which is how a socket for both names it too.
fn halves(address: IpAddr) -> [u64; 2] {
    let address: Ipv6Addr = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let bits = address.to_bits();
    [(bits >> 64) as u64, bits as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn client(watches: &Watches, at: &str, now: u64) {
        watches.accepted(|| Some(ip(at)), || now);
    }

    #[test]
    fn the_first_client_at_each_watched_address_leaves_its_time_and_later_ones_do_not() {
        let (one, other) = (ip("192.0.2.1"), ip("fd00::1"));
        let watches = Watches::default();
        client(&watches, "192.0.2.1", 5);
        watches.watch(one, 10);
        watches.watch(other, 11);
        assert_eq!((watches.first(one), watches.first(other)), (None, None), "who came before does not count");
        client(&watches, "192.0.2.2", 12);
        client(&watches, "fd00::1", 13);
        client(&watches, "fd00::1", 14);
        client(&watches, "::ffff:192.0.2.1", 15);
        client(&watches, "192.0.2.1", 16);
        assert_eq!((watches.first(one), watches.first(other)), (Some(15), Some(13)));
        client(&watches, "192.0.2.1", 17);
        assert_eq!(watches.first(one), Some(15), "it can be asked again");
        watches.watch(one, 20);
        assert_eq!((watches.first(one), watches.first(other)), (None, Some(13)));
        client(&watches, "192.0.2.1", 21);
        assert_eq!(watches.first(one), Some(21));
    }

    #[test]
    fn nobodys_address_is_asked_for_while_nothing_is_watched() {
        let (address, watches) = (ip("192.0.2.1"), Watches::default());
        let unasked = |watches: &Watches| watches.accepted(|| panic!("asked for the address"), || panic!("and time"));
        unasked(&watches);
        watches.watch(address, 1);
        client(&watches, "192.0.2.1", 2);
        unasked(&watches);
        assert_eq!(watches.first(address), Some(2));
        unasked(&watches);
        watches.watch(address, 3);
        watches.forget(address);
        unasked(&watches);
        assert_eq!(watches.first(address), None);
        watches.watch(address, 4);
        watches.clear();
        unasked(&watches);
        watches.watch(address, 5);
        watches.accepted(|| None, || panic!("a client without an address is nobody's"));
    }

    #[test]
    fn a_client_of_the_watch_before_does_not_count_for_the_new_one() {
        let (address, watches) = (ip("192.0.2.1"), Watches::default());
        watches.watch(address, 1);
        // The worker is slow: while it takes the time, the agent watches anew.
        watches.accepted(
            || Some(address),
            || {
                watches.watch(address, 3);
                2
            },
        );
        assert_eq!(watches.first(address), None);
        client(&watches, "192.0.2.1", 4);
        assert_eq!(watches.first(address), Some(4));
    }

    #[test]
    fn one_address_too_many_takes_the_place_of_the_oldest() {
        let watches = Watches::default();
        let address = |number: usize| ip(&format!("192.0.2.{number}"));
        for number in 0..=MAX_WATCHES {
            watches.watch(address(number), 10 + number as u64);
        }
        for number in 0..=MAX_WATCHES {
            client(&watches, &address(number).to_string(), 100 + number as u64);
        }
        let times: Vec<_> = (0..=MAX_WATCHES).map(|number| watches.first(address(number))).collect();
        assert_eq!(times[0], None);
        assert!(times[1..].iter().zip(101..).all(|(time, expected)| *time == Some(expected)), "{times:?}");
    }

    #[test]
    fn of_many_workers_one_leaves_its_time() {
        let (address, watches) = (ip("192.0.2.1"), Watches::default());
        for round in 1..=100 {
            watches.watch(address, round * 10);
            std::thread::scope(|scope| {
                for worker in 1..=4 {
                    let watches = &watches;
                    scope.spawn(move || watches.accepted(|| Some(address), || round * 10 + worker));
                }
            });
            let first = watches.first(address).unwrap();
            assert!((round * 10 + 1..=round * 10 + 4).contains(&first), "{first} in round {round}");
        }
    }
}
