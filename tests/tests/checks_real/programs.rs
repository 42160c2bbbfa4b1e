//! Checks by programs, which the agent runs: their words, their ends, and that nothing of them stays.

use std::os::unix::fs::PermissionsExt;

use tests::place::Place;
use tests::serve::{Serve, Site};
use tests::wait::wait_until;

use crate::{SOON, wait_for};

#[test]
fn a_program_says_whether_its_server_is_well_and_leaves_nothing_behind() {
    let place = Place::new("checks-programs").unwrap();
    // It runs as somebody else, if it can.
    std::fs::set_permissions(place.folder(), PermissionsExt::from_mode(0o777)).unwrap();
    let script = |name: &str, text: &str| {
        let path = place.write(name, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let folder = place.folder().display();
    let good = script(
        "good",
        "test \"$LBNODE_BACKEND/$LBNODE_SERVER $1\" = 'good/good a b;c' || exit 9\ntest -z \"$HOME\" && test -n \"$LBNODE_PORT\"",
    );
    let who = script("who", "id -u; exit 3");
    let hangs = script("hangs", &format!("sleep 600 & echo $! > {folder}/child; wait"));
    let loud = script("loud", "while :; do echo noise; done");
    let server = place.at(9001);
    let mut site = Site::new(place.at(8080), server);
    for (name, path, args) in [
        ("good", good.as_str(), "[\"a b;c\"]"),
        ("who", &who, "[]"),
        ("hangs", &hangs, "[]"),
        ("loud", &loud, "[]"),
        ("missing", "/nonexistent/program", "[]"),
    ] {
        site.more += &format!(
            "[backend.{name}]\nmode = \"tcp\"\nservers = [{{ name = \"{name}\", address = \"{server}\" }}]\n\
            check = {{ program = {{ path = \"{path}\", args = {args} }}, interval = \"200ms\", timeout = \"3s\" }}\n"
        );
    }
    let serve = Serve::start(&place, &site.toml()).unwrap();
    wait_for(&serve, "good", "up", "passed");
    // Whoever is root has it run as nobody; others as themselves.
    let uid = if nix::unistd::geteuid().is_root() { 65_534 } else { nix::unistd::geteuid().as_raw() };
    wait_for(&serve, "who", "down", &format!("exit status 3: {uid}"));
    wait_for(&serve, "missing", "down", "exit status 126: ");
    wait_for(&serve, "loud", "down", "the program did not end within 3s");
    wait_for(&serve, "hangs", "down", "the program did not end within 3s");
    // The file may have another child's number by now; in the end all are gone.
    let child = || std::fs::read_to_string(place.path("child")).unwrap_or_default().trim().to_owned();
    assert!(!child().is_empty());
    drop(serve);
    wait_until("its child to be gone", SOON, || {
        let child = child();
        if std::path::Path::new(&format!("/proc/{child}")).exists() { Err(child) } else { Ok(()) }
    })
    .unwrap();
}
