//! How a connection lives while plans change and workers drain, and how it ends.

use std::time::{Duration, Instant};

use proxy_core::plane::LogDescriptors;

use crate::client::{Answer, Client, get, play, request, send_all, stage};
use crate::data_support::http::{Gate, Message, http, numbering, ok, scripted, serving, web};
use crate::data_support::{Plane, at, listeners, start, wait_for};
use std::sync::Arc;

async fn arrived(gate: &Arc<Gate>) {
    let gate = Arc::clone(gate);
    tokio::task::spawn_blocking(move || gate.wait_for(1)).await.unwrap();
}

/// A server that answers when it is told to.
fn told() -> (std::net::SocketAddr, Arc<Gate>, Arc<Gate>) {
    let (asked, go) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    let (asks, goes) = (Arc::clone(&asked), Arc::clone(&go));
    let (server, _) = serving(move |request: &Message, peer| {
        if request.path() == "/wait" {
            asks.arrive();
            goes.wait_for(1);
        }
        peer.say(ok("done"));
        true
    });
    (server, asked, go)
}

#[test]
fn a_drain_lets_streams_end_and_takes_no_new_connection() {
    let (server, asked, go) = told();
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    play(async {
        let mut idle = Client::to(front).await;
        assert_eq!(idle.get("/").await.text(), "done");
        let mut client = Client::to(front).await;
        client.send = client.send.clone().ready().await.unwrap();
        let response = client.send.send_request(get("/wait"), true).unwrap().0;
        arrived(&asked).await;
        plane.drain(Instant::now() + Duration::from_secs(60));
        // Who waits for nothing is sent away.
        assert!(idle.end.await.unwrap().is_ok());
        go.arrive();
        assert_eq!(Answer::of(response.await.unwrap()).await.unwrap().text(), "done");
        assert!(client.end.await.unwrap().is_ok());
    });
    wait_for("the workers to end", || plane.stats().sessions == 0);
    assert_eq!(plane.stats().reset_by_drain, 0);
}

#[test]
fn a_drains_deadline_cuts_what_is_left() {
    let (server, asked, go) = told();
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    play(async {
        let mut client = Client::to(front).await;
        client.send = client.send.clone().ready().await.unwrap();
        let response = client.send.send_request(get("/wait"), true).unwrap().0;
        arrived(&asked).await;
        plane.drain(Instant::now() + Duration::from_millis(200));
        assert!(response.await.is_err());
    });
    go.arrive();
    wait_for("it to be counted", || plane.stats().reset_by_drain == 1);
}

fn apply(plane: &mut Plane, plan: proxy_core::plan::Plan) {
    plane.apply(plan, Vec::new(), &[], LogDescriptors::new()).unwrap();
    wait_for("the plan to be taken up", || plane.ready());
}

#[test]
fn a_plan_changes_under_a_connection_and_its_next_stream_goes_by_it() {
    let (old, asked, go) = told();
    let (new, _) = numbering();
    let (address, sockets) = listeners(1);
    let plan = |server, revision| {
        let mut plan = web(address, vec![at("a", server)]);
        http(&mut plan).http2 = true;
        plan.revision = revision;
        plan
    };
    let mut plane = start(plan(old, 1), 1, sockets);
    play(async {
        let mut client = Client::to(address).await;
        client.send = client.send.clone().ready().await.unwrap();
        let response = client.send.send_request(get("/wait"), true).unwrap().0;
        arrived(&asked).await;
        apply(&mut plane, plan(new, 2));
        assert_eq!(client.get("/").await.text(), "1");
        go.arrive();
        assert_eq!(Answer::of(response.await.unwrap()).await.unwrap().text(), "done");
        assert_eq!(client.get("/").await.text(), "1");
    });
}

#[test]
fn streams_wait_for_room_in_the_process_and_one_always_goes() {
    let (server, seen) = numbering();
    let (address, sockets) = listeners(1);
    let mut plan = web(address, vec![at("a", server)]);
    http(&mut plan).http2 = true;
    let limits = proxy_core::limits::Limits { nofile: 65_536, sessions: 3 };
    let plane = crate::data_support::start_within(plan, 1, sockets, limits);
    play(async {
        let mut clients = vec![Client::to(address).await, Client::to(address).await, Client::to(address).await];
        for client in &mut clients {
            let mut asked = Vec::new();
            for _ in 0..50 {
                let mut send = client.send.clone().ready().await.unwrap();
                asked.push(send.send_request(get("/"), true).unwrap().0);
            }
            for response in asked {
                assert_eq!(Answer::of(response.await.unwrap()).await.unwrap().status(), 200);
            }
        }
    });
    assert_eq!(seen.requests().len(), 150);
    assert!(plane.stats().sessions <= 3);
}

#[test]
fn a_connection_that_is_cut_ends_all_of_its_streams() {
    let (server, seen) = scripted(|peer| {
        let _ = peer.head();
        let _ = peer.rest();
    });
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    play(async {
        let mut client = Client::to(front).await;
        let mut kept = Vec::new();
        for _ in 0..20 {
            let (response, mut body) = client.begin(request("POST", "/")).await;
            send_all(&mut body, b"some", false).await.unwrap();
            kept.push((response, body));
        }
        while seen.open() < 20 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        client.end.abort();
        assert!(client.end.await.is_err());
    });
    wait_for("the server to be left alone", || seen.open() == 0);
    wait_for("the client to be gone", || plane.stats().sessions == 0);
    assert_eq!(plane.stats().frontends[0].client_aborts, 20);
}
