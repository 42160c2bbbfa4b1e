//! gRPC from a client of Google's library to a server of it: HTTP/2 in front and behind, with trailers.

use std::net::SocketAddr;
use std::time::Duration;

use tests::part::Part;
use tests::place::Place;
use tests::python::script;

use crate::site::{Front, authority, pki};

const PATIENCE: Duration = Duration::from_secs(120);
/// What the client says at the end of each kind of call.
const KINDS: usize = 10;

/// The server; over TLS with a certificate of the run.
fn echo(place: &Place, address: SocketAddr, certificate: Option<&str>) -> Part {
    let mut command = script("grpc_echo.py");
    command.args([address.ip().to_string(), address.port().to_string()]);
    if let Some(name) = certificate {
        command.arg(pki().path(&format!("{name}.pem"))).arg(pki().path(&format!("{name}.key")));
    }
    let mut part = Part::start("grpc-echo", command, place.folder()).unwrap();
    part.wait_listening(address).unwrap();
    part
}

/// Every kind of call, towards an address; over TLS to a name.
fn call(place: &Place, name: &str, address: SocketAddr, host: Option<&str>) -> Result<(), String> {
    let mut command = script("grpc_client.py");
    command.arg(address.to_string());
    if let Some(host) = host {
        command.arg(pki().path("root.crt")).arg(host);
    }
    let mut client = Part::start(name, command, place.folder()).unwrap();
    let status = client.process().wait(PATIENCE).unwrap();
    let said = std::fs::read_to_string(client.log()).unwrap();
    let whole = status.success() && said.contains("all of gRPC") && said.matches(": ok\n").count() == KINDS;
    if whole { Ok(()) } else { Err(said) }
}

#[test]
fn every_kind_of_call_goes_through_from_end_to_end() {
    let place = Place::new("grpc").unwrap();
    let server = place.at(9001);
    let _echo = echo(&place, server, None);
    call(&place, "direct", server, None).unwrap();
    let front = Front::start(&place, server, |site| site.backend = "http2 = true\n".into());
    for (name, at, host) in [("clear", front.clear, None), ("tls", front.tls(), Some("a.test"))] {
        call(&place, name, at, host).unwrap_or_else(|said| panic!("{name}: {said}\n{}", front.serve.part.tail()));
    }
}

#[test]
fn every_kind_of_call_goes_through_to_a_server_behind_tls() {
    let place = Place::new("grpc-tls").unwrap();
    let server = place.at(9001);
    let _echo = echo(&place, server, Some("one.corp"));
    let front = Front::start(&place, server, |site| {
        site.more += &authority();
        site.backend =
            "http2 = true\ntls = { verify = \"required\", ca = \"corp\", server_name = \"one.corp\" }\n".into();
    });
    call(&place, "tls", front.tls(), Some("a.test"))
        .unwrap_or_else(|said| panic!("{said}\n{}", front.serve.part.tail()));
}

#[test]
fn calls_at_once_from_many_clients_all_succeed() {
    let place = Place::new("grpc-many").unwrap();
    let server = place.at(9001);
    let _echo = echo(&place, server, None);
    let front = Front::start(&place, server, |site| site.backend = "http2 = true\n".into());
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let one = |number: usize| {
            let (place, at) = (&place, front.tls());
            scope.spawn(move || call(place, &format!("client-{number}"), at, Some("a.test")).err())
        };
        let all: Vec<_> = (0..4).map(one).collect();
        all.into_iter().filter_map(|client| client.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", front.serve.part.tail());
}
