//! What was changed of lists at run time, laid over what the cluster file says of them. Pure.
//!
//! The file stays the authority: what it comes to say itself is no change any more, and a list that it drops takes
//! its changes along.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ipnetwork::IpNetwork;
use proxy_core::plan::{List, Plan};
use serde::{Deserialize, Serialize};

/// Networks that can be changed at run time, over all lists: what is more belongs into a file. Each takes some 50 bytes
/// of the one message that brings a plan to the core (16 MiB).
pub const MAX_CHANGED: usize = 50_000;

/// Changes, by the names of their lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Overlay(BTreeMap<String, Changes>);

/// Of one list. No network is in both sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    /// Not in the file.
    added: BTreeSet<IpNetwork>,
    /// In the file.
    removed: BTreeSet<IpNetwork>,
}

/// A list as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// From the file, and still in the list; in the order of the file.
    pub from_file: Vec<IpNetwork>,
    /// Added at run time.
    pub added: Vec<IpNetwork>,
    /// In the file, and taken out at run time.
    pub removed: Vec<IpNetwork>,
}

/// What a change came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Were not in the list before.
    pub added: Vec<IpNetwork>,
    /// Were in the list before.
    pub removed: Vec<IpNetwork>,
    /// Were as they were wanted already.
    pub unchanged: Vec<IpNetwork>,
}

/// Why a list was not changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Taking it out would not take its addresses out.
    #[error("`{network}` is in the list as a part of `{by}`: remove that one, and add what shall stay")]
    Covered {
        /// What was to go.
        network: IpNetwork,
        /// What holds it.
        by: IpNetwork,
    },
    /// [`MAX_CHANGED`].
    #[error("at most {MAX_CHANGED} networks can be changed at run time; more of them belong into the list's file")]
    TooMany,
}

impl Overlay {
    /// The list as it is with these changes.
    pub fn content(&self, list: &List) -> Content {
        let Some(changes) = self.0.get(&list.name) else {
            return Content { from_file: list.networks.clone(), ..Content::default() };
        };
        Content {
            from_file: list.networks.iter().filter(|network| !changes.removed.contains(network)).copied().collect(),
            added: changes.added.iter().copied().collect(),
            removed: changes.removed.iter().copied().collect(),
        }
    }

    /// Puts the changes into a plan that has the lists of the file.
    pub fn lay_over(&self, plan: &mut Plan) {
        for list in plan.lists.iter_mut().filter(|list| self.0.contains_key(&list.name)) {
            list.networks = self.content(list).networks();
        }
    }

    /// Takes networks out of a list, then puts others into it.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing was changed then.
    pub fn change(&mut self, list: &List, add: &[IpNetwork], remove: &[IpNetwork]) -> Result<Changed, ChangeError> {
        let file: HashSet<IpNetwork> = list.networks.iter().copied().collect();
        let mut changes = self.0.get(&list.name).cloned().unwrap_or_default();
        let mut done = Changed::default();
        for &network in remove {
            if changes.added.remove(&network) || file.contains(&network) && changes.removed.insert(network) {
                done.removed.push(network);
            } else {
                done.unchanged.push(network);
            }
        }
        for &network in add {
            if changes.removed.remove(&network) || !file.contains(&network) && changes.added.insert(network) {
                done.added.push(network);
            } else {
                done.unchanged.push(network);
            }
        }
        let others = self.0.iter().filter(|(name, _)| **name != list.name);
        let changed: usize = others.map(|(_, changes)| changes.len()).sum::<usize>() + changes.len();
        if changed > MAX_CHANGED {
            return Err(ChangeError::TooMany);
        }
        let mut now = Overlay(BTreeMap::from([(list.name.clone(), changes)]));
        // Who removes a network wants its addresses out.
        let content = now.content(list).networks();
        for &network in remove.iter().filter(|network| !add.contains(network)) {
            if let Some(&by) = content.iter().find(|by| holds(by, &network)) {
                return Err(ChangeError::Covered { network, by });
            }
        }
        self.0.append(&mut now.0);
        self.0.retain(|_, changes| changes.len() > 0);
        Ok(done)
    }

    /// Forgets what means nothing with these lists; whether there was anything of the kind.
    pub fn prune(&mut self, lists: &[List]) -> bool {
        let before = self.clone();
        let lists: BTreeMap<&str, &List> = lists.iter().map(|list| (list.name.as_str(), list)).collect();
        self.0.retain(|name, changes| {
            let Some(list) = lists.get(name.as_str()) else { return false };
            let file: HashSet<IpNetwork> = list.networks.iter().copied().collect();
            changes.added.retain(|network| !file.contains(network));
            changes.removed.retain(|network| file.contains(network));
            changes.len() > 0
        });
        *self != before
    }
}

impl Changes {
    fn len(&self) -> usize {
        self.added.len() + self.removed.len()
    }
}

impl Content {
    /// What is in the list.
    pub fn networks(&self) -> Vec<IpNetwork> {
        [self.from_file.as_slice(), &self.added].concat()
    }
}

/// Whether all addresses of the one are in the other.
fn holds(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.ip())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn list(texts: &[&str]) -> List {
        List { name: "admins".into(), networks: networks(texts) }
    }

    fn parts(overlay: &Overlay, list: &List) -> [Vec<String>; 3] {
        let Content { from_file, added, removed } = overlay.content(list);
        [from_file, added, removed].map(|part| part.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_list_is_the_file_without_what_was_removed_and_with_what_was_added() {
        let file = list(&["10.0.0.0/8", "192.0.2.1"]);
        let mut overlay = Overlay::default();
        let changed = overlay.change(&file, &networks(&["2001:db8::/32"]), &networks(&["192.0.2.1"])).unwrap();
        assert_eq!(changed.added, networks(&["2001:db8::/32"]));
        assert_eq!(changed.removed, networks(&["192.0.2.1"]));
        assert_eq!(parts(&overlay, &file), [vec!["10.0.0.0/8"], vec!["2001:db8::/32"], vec!["192.0.2.1/32"]]);
        let mut plan = Plan { lists: vec![file.clone(), List { name: "other".into(), ..file }], ..Plan::default() };
        overlay.lay_over(&mut plan);
        assert_eq!(plan.lists[0].networks, networks(&["10.0.0.0/8", "2001:db8::/32"]));
        assert_eq!(plan.lists[1].networks, networks(&["10.0.0.0/8", "192.0.2.1"]));
    }

    #[test]
    fn what_was_changed_can_be_changed_back_and_leaves_nothing() {
        let file = list(&["10.0.0.0/8"]);
        let mut overlay = Overlay::default();
        let (there, new) = (networks(&["10.0.0.0/8"]), networks(&["192.0.2.1"]));
        overlay.change(&file, &new, &there).unwrap();
        let back = overlay.change(&file, &there, &new).unwrap();
        assert_eq!((back.added, back.removed, back.unchanged), (there, new, vec![]));
        assert_eq!(overlay, Overlay::default());
    }

    #[test]
    fn what_is_so_already_is_no_mistake() {
        let file = list(&["10.0.0.0/8"]);
        let mut overlay = Overlay::default();
        let changed = overlay.change(&file, &networks(&["10.0.0.0/8"]), &networks(&["192.0.2.1"])).unwrap();
        assert_eq!(changed.unchanged, networks(&["192.0.2.1", "10.0.0.0/8"]));
        assert_eq!(overlay, Overlay::default());
    }

    #[test]
    fn a_part_of_a_network_cannot_be_removed_alone() {
        let file = list(&["10.0.0.0/8", "10.1.2.3"]);
        let mut overlay = Overlay::default();
        for part in ["10.1.2.3", "10.200.0.0/16"] {
            let refused = overlay.change(&file, &[], &networks(&[part])).unwrap_err();
            let by = "10.0.0.0/8".parse().unwrap();
            assert_eq!(refused, ChangeError::Covered { network: part.parse().unwrap(), by });
        }
        assert_eq!(overlay, Overlay::default());
        overlay.change(&file, &[], &networks(&["10.1.2.3", "10.0.0.0/8"])).unwrap();
        assert_eq!(overlay.content(&file).networks(), []);
    }

    #[test]
    fn the_file_is_the_authority() {
        let mut overlay = Overlay::default();
        let before = list(&["10.0.0.0/8", "172.16.0.0/12"]);
        overlay.change(&before, &networks(&["192.0.2.1", "192.0.2.2"]), &networks(&["10.0.0.0/8"])).unwrap();
        let after = list(&["172.16.0.0/12", "192.0.2.1"]);
        assert!(overlay.prune(std::slice::from_ref(&after)));
        assert!(!overlay.prune(std::slice::from_ref(&after)));
        assert_eq!(parts(&overlay, &after), [vec!["172.16.0.0/12", "192.0.2.1/32"], vec!["192.0.2.2/32"], vec![]]);
        assert!(overlay.prune(&[]));
        assert_eq!(overlay, Overlay::default());
    }

    #[test]
    fn more_networks_than_there_is_room_for_are_refused() {
        let file = list(&[]);
        let many: Vec<IpNetwork> =
            (0..=MAX_CHANGED as u32).map(|n| IpNetwork::from(std::net::IpAddr::V4(n.into()))).collect();
        let mut overlay = Overlay::default();
        assert_eq!(overlay.change(&file, &many, &[]), Err(ChangeError::TooMany));
        assert_eq!(overlay, Overlay::default());
        assert_eq!(overlay.change(&file, &many[1..], &[]).unwrap().added.len(), MAX_CHANGED);
    }

    #[test]
    fn its_form_on_disk_is_for_people_too() {
        let mut overlay = Overlay::default();
        overlay.change(&list(&["10.0.0.0/8"]), &networks(&["192.0.2.1"]), &networks(&["10.0.0.0/8"])).unwrap();
        let text = r#"{"admins":{"added":["192.0.2.1/32"],"removed":["10.0.0.0/8"]}}"#;
        assert_eq!(serde_json::to_string(&overlay).unwrap(), text);
        assert_eq!(serde_json::from_str::<Overlay>(text).unwrap(), overlay);
    }

    proptest! {
        /// Against a plain set: single addresses, so that none holds another.
        #[test]
        fn changes_add_up_to_what_a_set_would_have(
            file in proptest::collection::btree_set(0u32..12, 0..8),
            steps in proptest::collection::vec((any::<bool>(), 0u32..12), 0..40),
        ) {
            let network = |n: u32| IpNetwork::from(std::net::IpAddr::V4(n.into()));
            let list = List { name: "l".into(), networks: file.iter().copied().map(network).collect() };
            let (mut overlay, mut model) = (Overlay::default(), file.clone());
            for (add, n) in steps {
                let one = [network(n)];
                let changed = match add {
                    true => overlay.change(&list, &one, &[]).unwrap(),
                    false => overlay.change(&list, &[], &one).unwrap(),
                };
                let expected = if add { model.insert(n) } else { model.remove(&n) };
                prop_assert_eq!(changed.unchanged.is_empty(), expected);
                let now: BTreeSet<IpNetwork> = overlay.content(&list).networks().into_iter().collect();
                prop_assert_eq!(now, model.iter().copied().map(network).collect::<BTreeSet<_>>());
                let mut same = overlay.clone();
                prop_assert!(!same.prune(std::slice::from_ref(&list)));
            }
        }
    }
}
