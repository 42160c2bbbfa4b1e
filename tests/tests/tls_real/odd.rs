//! Clients of TLS that are odd or broken: `parts/tls_odd.py` says which, and what must come of each.

use std::time::Duration;

use tests::nginx::Nginx;
use tests::part::Part;
use tests::place::Place;
use tests::python::script;

use crate::site::Front;

#[test]
fn odd_clients_are_served_and_broken_ones_are_told_why() {
    let place = Place::new("tls-odd").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let front = Front::start(&place, server, |_| {});
    let mut command = script("tls_odd.py");
    command.args([front.tls().ip().to_string(), front.tls().port().to_string(), "a.test".into(), "/who".into()]);
    let mut odd = Part::start("odd", command, place.folder()).unwrap();
    let status = odd.process().wait(Duration::from_secs(120)).unwrap();
    let said = std::fs::read_to_string(odd.log()).unwrap();
    assert!(status.success() && said.contains("0 of "), "{said}\n{}", front.serve.part.tail());
    // And it still serves.
    assert_eq!(front.get("a.test", "/who", &[]), "one\n");
}
