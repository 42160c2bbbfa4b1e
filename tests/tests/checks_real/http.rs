//! nginx under checks that look at its answers.

use tests::nginx::Nginx;
use tests::place::Place;
use tests::serve::{Serve, Site};

use crate::wait_for;

/// A site with one backend a check, all with the same server.
fn site(place: &Place, server: std::net::SocketAddr, checks: &[(&str, &str)]) -> String {
    let mut site = Site::new(place.at(8080), server);
    for (name, check) in checks {
        site.more += &format!(
            "[backend.{name}]\nmode = \"http\"\nservers = [{{ name = \"{name}\", address = \"{server}\" }}]\n\
            check = {{ {check}, interval = \"50ms\", timeout = \"5s\" }}\n"
        );
    }
    site.toml()
}

#[test]
fn what_a_web_server_answers_is_what_its_check_says() {
    let place = Place::new("checks-http").unwrap();
    let server = place.at(9001);
    let http = format!(
        "server {{ listen {server}; location = /health {{ return 200 \"all is well\\n\"; }}
           location = /secret {{ return 401 \"who?\"; }}
           location = /asked {{ if ($http_x_probe != \"yes\") {{ return 403; }} return 204; }}
           location = /host {{ return 200 \"you asked $host\"; }}
           location / {{ return 404; }} }}"
    );
    let _nginx = Nginx::start(&place, "one", server, &http, "").unwrap();
    let checks = [
        ("text", "http = { path = \"/health\", body = \"is well\" }"),
        ("expression", "http = { path = \"/health\", body_regex = \"^all .* well\" }"),
        ("secret", "http = { path = \"/secret\", expect = \"401-401\" }"),
        ("asked", "http = { path = \"/asked\", headers = { X-Probe = \"yes\" } }"),
        ("host", "http = { path = \"/host\", host = \"owa.test\", body = \"you asked owa.test\" }"),
        ("wrong", "http = { path = \"/helath\" }"),
        ("ill", "http = { path = \"/health\", body = \"is ill\" }"),
        ("unasked", "http = { path = \"/asked\" }"),
        ("dead", "http = { path = \"/health\", port = 9 }"),
        ("shy", "tls = { verify = \"none\" }"),
    ];
    let serve = Serve::start(&place, &site(&place, server, &checks)).unwrap();
    for name in ["text", "expression", "secret", "asked", "host"] {
        wait_for(&serve, name, "up", "passed");
    }
    let wrong = wait_for(&serve, "wrong", "down", "got 404, expected 200-399");
    assert_eq!(wrong["check"]["code"], 404);
    wait_for(&serve, "ill", "down", "got a body that begins `all is well\\n`, expected `is ill` in it");
    wait_for(&serve, "unasked", "down", "got 403, expected 200-399");
    wait_for(&serve, "dead", "down", "connection refused");
    wait_for(&serve, "shy", "down", "tls: ");
}
