//! NTLM: a connection has a user. Two of them at once, and strangers between them: nobody is ever taken for another.

use std::thread;

use tests::part::Part;
use tests::place::Place;
use tests::python::script;

use crate::{Front, curl};

/// Requests on each of a user's connections.
const EACH: usize = 10;
/// Connections of each user, one after the other.
const CONNECTIONS: usize = 20;

#[test]
fn no_user_of_ntlm_is_ever_taken_for_another() {
    let place = Place::new("ntlm").unwrap();
    let server = place.at(9001);
    let users = place.write("users", "LAB:alice:Wonderland1\nLAB:bob:Builder2\n").unwrap();
    let mut command = script("ntlm_server.py");
    command.args([server.ip().to_string(), server.port().to_string()]).env("NTLM_USER_FILE", users);
    let mut acceptor = Part::start("ntlm", command, place.folder()).unwrap();
    acceptor.wait_listening(server).unwrap();
    let front = Front::start(&place, server, |_| {});
    let (private, open) = (front.url("/private"), front.url("/open"));

    let stranger = || {
        for _ in 0..CONNECTIONS * 2 {
            let said = curl(&[&open, &open, &open, &open, &open]);
            assert_eq!(said, "user=None\n".repeat(5), "a stranger was taken for somebody");
            assert_eq!(curl(&["-o", "/dev/null", "-w", "%{http_code}", &private]), "401");
        }
    };
    let user = |name: &str, password: &str| {
        for _ in 0..CONNECTIONS {
            let login = format!("LAB\\{name}:{password}");
            let mut arguments = vec!["--ntlm", "-u", &login];
            arguments.extend([private.as_str(); EACH]);
            assert_eq!(curl(&arguments), format!("user={name}\n").repeat(EACH));
        }
    };
    thread::scope(|scope| {
        let all = [
            scope.spawn(|| user("alice", "Wonderland1")),
            scope.spawn(|| user("bob", "Builder2")),
            scope.spawn(stranger),
        ];
        all.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let wrong = curl(&["--ntlm", "-u", "LAB\\alice:Wrong", "-o", "/dev/null", "-w", "%{http_code}", &private]);
    assert_eq!(wrong, "401");
}
