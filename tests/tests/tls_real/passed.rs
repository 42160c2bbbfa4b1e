//! TCP mode: TLS that passes through by the name it asks for, and TLS that ends here and goes on as plain bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::nginx::Nginx;
use tests::part::Part;
use tests::place::Place;
use tests::python::script;
use tests::serve::Serve;
use tests::wait::wait_until;

use crate::site::{Said, certificates, curl_at, pki, s_client, serial_of, serial_shown};

const PATIENCE: Duration = Duration::from_secs(20);

/// Two servers with certificates of their own, and the third for whoever names neither.
struct Passed {
    serve: Serve,
    bind: SocketAddr,
    _servers: [Nginx; 3],
}

fn pass(place: &Place) -> Passed {
    let bind = place.at(8443);
    let at = |number: u16| place.at(9440 + number);
    let servers = [("a", 1), ("b", 2), ("default", 3)];
    let started = servers.map(|(name, number)| {
        Nginx::tls_server(place, name, at(number), &pki().path(&format!("{name}.pem")), "").unwrap()
    });
    let backends: String = servers
        .iter()
        .map(|(name, number)| {
            let address = at(*number);
            format!("[backend.{name}]\nmode = \"tcp\"\nservers = [{{ name = \"{name}\", address = \"{address}\" }}]\n")
        })
        .collect();
    let toml = format!(
        "[pair]\nname = \"site\"\n[defaults]\ntimeouts = {{ client = \"30s\", server = \"30s\" }}\n\
        [frontend.front]\nmode = \"tcp\"\nbind = \"{bind}\"\ndefault_backend = \"default\"\n\
        [[frontend.front.rule]]\nwhen = {{ alpn = [\"refused/1\"] }}\nreject = true\n\
        [[frontend.front.rule]]\nwhen = {{ sni = [\"a.test\", \"www.a.test\"] }}\nuse_backend = \"a\"\n\
        [[frontend.front.rule]]\nwhen = {{ any = [{{ sni = \"b.test\" }}, {{ sni_suffix = \".b.test\" }}] }}\nuse_backend = \"b\"\n{backends}"
    );
    Passed { serve: Serve::start(place, &toml).unwrap(), bind, _servers: started }
}

impl Passed {
    fn get(&self, host: &str, arguments: &[&str]) -> Said {
        let url = format!("https://{host}:{}/who", self.bind.port());
        curl_at(self.bind, host, &[arguments, &[&url]].concat())
    }
}

#[test]
fn tls_goes_to_the_server_that_its_name_says_unopened() {
    let place = Place::new("pass-names").unwrap();
    let passed = pass(&place);
    for (host, server) in [
        ("a.test", "a\n"),
        ("www.a.test", "a\n"),
        ("b.test", "b\n"),
        ("x.b.test", "b\n"),
        ("default.test", "default\n"),
    ] {
        for version in ["--tlsv1.3", "--tls-max=1.2"] {
            let version: Vec<&str> = version.split('=').collect();
            let said = passed.get(host, &version);
            assert_eq!(said.text, server, "{host}: {said:?}\n{}", passed.serve.part.tail());
        }
    }
    // Each server's own certificate: nothing was opened on the way.
    assert_eq!(serial_shown(passed.bind, "b.test", &[]), serial_of("b"));
    let unnamed = s_client(passed.bind, "/who", &["-noservername"]);
    assert!(unnamed.text.contains("CN = default.test") && unnamed.text.contains("\r\n\r\ndefault\n"), "{unnamed:?}");
    let refused = s_client(passed.bind, "/who", &["-servername", "a.test", "-alpn", "refused/1"]);
    assert!(!refused.text.contains("BEGIN CERTIFICATE"), "{refused:?}");
    // What is no TLS names nobody.
    let plain = crate::site::run("curl", &["-sS", "-m", "20", &format!("http://{}/who", passed.bind)], "");
    assert!(plain.text.contains("400 The plain HTTP request was sent to HTTPS port"), "nginx of `default`: {plain:?}");
}

#[test]
fn a_hello_in_pieces_is_read_to_its_end() {
    let place = Place::new("pass-pieces").unwrap();
    let passed = pass(&place);
    let mut command = script("tls_odd.py");
    command.args([passed.bind.ip().to_string(), passed.bind.port().to_string(), "a.test".into(), "/who".into()]);
    let whole = [
        "plain_tls_12",
        "plain_tls_13",
        "hello_in_records_of_one_byte",
        "hello_byte_by_byte",
        "hello_of_sixteen_kilobytes",
    ];
    command.args(whole);
    let mut odd = Part::start("odd", command, place.folder()).unwrap();
    let status = odd.process().wait(Duration::from_secs(60)).unwrap();
    let said = std::fs::read_to_string(odd.log()).unwrap();
    assert!(status.success() && said.matches("ok: ").count() == whole.len(), "{said}\n{}", passed.serve.part.tail());
}

#[test]
fn half_a_hello_and_then_silence_waits_for_a_while_and_holds_up_nobody() {
    let place = Place::new("pass-half").unwrap();
    let passed = pass(&place);
    let began = Instant::now();
    let mut silent: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = TcpStream::connect(passed.bind).unwrap();
            // A record of 200 bytes is announced, and its first few come.
            stream.write_all(&[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]).unwrap();
            stream
        })
        .collect();
    // One that says nothing at all.
    silent.push(TcpStream::connect(passed.bind).unwrap());
    for _ in 0..5 {
        let before = Instant::now();
        assert_eq!(passed.get("b.test", &[]).text, "b\n");
        assert!(before.elapsed() < Duration::from_secs(3), "an ordinary client waited {:?}", before.elapsed());
    }
    // In the end they are nobody's in particular: the default server has them, and waits in its turn.
    wait_until("the silent ones to be the default server's", PATIENCE, || {
        let output = passed.serve.command(&["status", "--json"]).unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        let backends = status["backends"].as_array().unwrap();
        let default = backends.iter().find(|backend| backend["name"] == "default").unwrap();
        let sessions = &default["servers"][0]["sessions"];
        if sessions.as_u64() == Some(51) { Ok(()) } else { Err(sessions.to_string()) }
    })
    .unwrap();
    println!("half a hello and silence: {:?}", began.elapsed());
    // Their first bytes are not lost: with the rest it is a hello again, of zeros, and the server says what it is.
    let mut first = silent.swap_remove(0);
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    first.write_all(&[0; 194]).unwrap();
    let mut answer = [0; 7];
    first.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..3], [21, 3, 3], "an alert: {answer:?}");
    assert_eq!(passed.get("a.test", &[]).text, "a\n", "and it still serves");
}

#[test]
fn tls_that_ends_in_tcp_mode_goes_on_as_plain_bytes() {
    let place = Place::new("pass-ends").unwrap();
    let (bind, clear) = (place.at(8443), place.at(9001));
    let _nginx = Nginx::server(&place, "one", clear).unwrap();
    let toml = format!(
        "[pair]\nname = \"site\"\n{}[tls.front]\ncertificates = [\"default\", \"a\"]\n\
        [frontend.front]\nmode = \"tcp\"\nbind = {{ to = \"{bind}\", tls = \"front\" }}\ndefault_backend = \"back\"\n\
        [[frontend.front.rule]]\nwhen = {{ sni = \"www.a.test\" }}\nreject = true\n\
        [backend.back]\nmode = \"tcp\"\nservers = [{{ name = \"one\", address = \"{clear}\" }}]\n",
        certificates(&["default", "a"])
    );
    let serve = Serve::start(&place, &toml).unwrap();
    let big: Vec<u8> = (0..3_000_000_u32).map(|index| (index * 31 % 251) as u8).collect();
    std::fs::create_dir_all(place.path("files")).unwrap();
    place.write("files/big", &big).unwrap();
    let (sent, got) = (place.path("files/big").display().to_string(), place.path("got").display().to_string());
    let url = |path: &str| format!("https://a.test:8443{path}");
    let said = curl_at(bind, "a.test", &["-o", &got, &url("/files/big")]);
    assert!(said.code == 0 && std::fs::read(&got).unwrap() == big, "{said:?}\n{}", serve.part.tail());
    let said = curl_at(bind, "a.test", &["-o", &got, "--data-binary", &format!("@{sent}"), &url("/echo")]);
    assert!(said.code == 0 && std::fs::read(&got).unwrap() == big, "{said:?}");
    // No protocol is promised where nothing is known of it.
    let said = s_client(bind, "/who", &["-servername", "a.test", "-alpn", "h2,http/1.1"]);
    assert!(said.text.contains("No ALPN negotiated") && said.text.contains("\r\n\r\none\n"), "{said:?}");
    let said = curl_at(bind, "www.a.test", &["https://www.a.test:8443/who"]);
    assert!(said.code != 0 && said.text.is_empty(), "{said:?}");
}

#[test]
fn tls_that_ends_in_tcp_mode_may_begin_again_behind() {
    let place = Place::new("pass-again").unwrap();
    let (bind, server) = (place.at(8443), place.at(9443));
    let _nginx = Nginx::tls_server(&place, "one", server, &pki().path("one.corp.pem"), "").unwrap();
    let toml = format!(
        "[pair]\nname = \"site\"\n{}{}[tls.front]\ncertificates = [\"a\"]\n\
        [frontend.front]\nmode = \"tcp\"\nbind = {{ to = \"{bind}\", tls = \"front\" }}\ndefault_backend = \"back\"\n\
        [backend.back]\nmode = \"tcp\"\nservers = [{{ name = \"one\", address = \"{server}\" }}]\n\
        tls = {{ verify = \"required\", ca = \"corp\", server_name = \"one.corp\" }}\n",
        certificates(&["a"]),
        crate::site::authority()
    );
    let mut serve = Serve::start(&place, &toml).unwrap();
    let said = curl_at(bind, "a.test", &["https://a.test:8443/tls"]);
    assert!(said.text.contains("name=one.corp"), "{said:?}\n{}", serve.part.tail());
    serve.apply(&toml.replace("\"one.corp\" }", "\"two.corp\" }")).unwrap();
    let said = curl_at(bind, "a.test", &["https://a.test:8443/tls"]);
    assert!(said.code != 0 && said.text.is_empty(), "a server of another name: {said:?}");
}
