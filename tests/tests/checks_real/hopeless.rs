//! What can't work and is no mistake: it is said, what it keeps from being served is counted, and everything else serves.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use serde_json::Value;
use tests::dnsmasq::Dnsmasq;
use tests::nginx::Nginx;
use tests::place::Place;
use tests::serve::{Serve, Site, binary};
use tests::wait::wait_until;

use crate::{SOON, wait_for};

/// Says it, and hears all that comes back.
fn say(address: SocketAddr, words: &str) -> std::io::Result<String> {
    let mut client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(SOON))?;
    client.write_all(words.as_bytes())?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask(address: SocketAddr, who: &str) -> String {
    say(address, &format!("GET /who HTTP/1.1\r\nHost: h\r\nX-Who: {who}\r\nConnection: close\r\n\r\n")).unwrap()
}

#[test]
fn what_cannot_work_is_said_and_counted_and_all_else_serves() {
    let place = Place::new("hopeless").unwrap();
    let [front, idle, raw, wrong, lost] = [8001, 8002, 8003, 8004, 8005].map(|port| place.at(port));
    let (back, resolver) = (place.at(7001), place.at(10053));
    let _nginx = Nginx::server(&place, "one", back).unwrap();
    let _dnsmasq = Dnsmasq::start(&place, resolver, &[]).unwrap();
    let mut site = Site::new(front, back);
    site.backend =
        "persist = { table = \"small\" }\ncheck = { http = { path = \"/who\" }, interval = \"100ms\" }".into();
    let further = |name: &str, mode: &str, bind: SocketAddr, backend: &str| {
        format!(
            "[frontend.{name}]\nmode = \"{mode}\"\nbind = \"{bind}\"\ndefault_backend = \"{name}\"\n\
             [backend.{name}]\nmode = \"{mode}\"\n{backend}\n\n"
        )
    };
    let nobody = format!("servers = [{{ name = \"spent\", address = \"{back}\", weight = 0 }}]");
    site.more = [
        format!("[resolver]\nnameservers = [\"{resolver}\"]\n"),
        "[stick_table.small]\nkey = \"header:X-Who\"\nsize = 1\nexpire = \"1h\"\n".into(),
        further("idle", "http", idle, &nobody),
        further("raw", "tcp", raw, &nobody),
        further(
            "wrong",
            "http",
            wrong,
            &format!(
                "check = {{ http = {{ path = \"/helath\" }}, interval = \"100ms\" }}\n\
                 servers = [{{ name = \"strange\", address = \"{back}\" }}]"
            ),
        ),
        further("lost", "http", lost, "servers = [{ name = \"lost\", address = \"lost.nowhere.test:80\" }]"),
    ]
    .concat();
    let serve = Serve::start(&place, &site.toml()).unwrap();

    let checked = Command::new(binary()).arg("check").arg(place.path("cluster.toml")).output().unwrap();
    assert!(checked.status.success(), "it is no mistake");
    let warned = String::from_utf8(checked.stderr).unwrap();
    for name in ["idle", "raw"] {
        let words = format!("backend `{name}`: all its servers have weight 0");
        assert!(warned.contains(&words), "{warned}");
    }
    assert_eq!(warned.matches("warning:").count(), 2, "{warned}");

    wait_for(&serve, "one", "up", "passed");
    let strange = wait_for(&serve, "strange", "down", "got 404, expected 200-399");
    assert_eq!(strange["check"]["code"], 404);
    wait_for(&serve, "lost", "down", "`lost.nowhere.test` has no address: there is no such name");
    for who in ["anna", "bert", "carl"] {
        assert!(ask(front, who).ends_with("one\n"));
    }
    for hopeless in [idle, wrong, lost] {
        assert!(ask(hopeless, "anna").starts_with("HTTP/1.1 503 "));
    }
    assert_eq!(say(raw, "?").unwrap_err().kind(), ErrorKind::ConnectionReset);

    let read = |arguments: &[&str]| String::from_utf8(serve.command(arguments).unwrap().stdout).unwrap();
    // A client may have its answer a moment before it is counted.
    let status = wait_until("all to be counted", SOON, || {
        let status: Value = serde_json::from_str(&read(&["status", "--json"])).map_err(|error| error.to_string())?;
        let backends = status["backends"].as_array().cloned().unwrap_or_default();
        let turned_away = backends.iter().filter(|backend| backend["no_server"] == 1).count();
        if turned_away == 4 { Ok(status) } else { Err(status["backends"].to_string()) }
    });
    assert_eq!(status.unwrap()["stick_tables"][0]["evicted"], 2);
    let page = read(&["status"]);
    for name in ["idle", "raw", "wrong", "lost"] {
        let words = format!("  ! backend {name}: no server takes new clients; 1 found none so far\n");
        assert!(page.contains(&words), "{page}");
    }
    for words in [
        "  ! stick table small: 2 entries were evicted before their time: it is too small\n",
        "its weight is 0\n",
        "got 404, expected 200-399\n",
        "`lost.nowhere.test` has no address",
    ] {
        assert!(page.contains(words), "no {words:?} in\n{page}");
    }
}
