//! Many clients at once, with everything mixed: nobody ever gets another's answer, or half of one that looks whole.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::data_support::http::{Dice, Message, Peer, chunked, serving, web};
use crate::data_support::{at, listeners, pace, start};

const CLIENTS: usize = 200;
const REQUESTS: usize = 50;

/// The body of an answer: known by the request's own number.
fn body_of(id: u64, size: usize) -> Vec<u8> {
    Dice::new(id.wrapping_mul(31) + 7).bytes(size)
}

fn size_of(dice: &mut Dice) -> usize {
    let most = [1, 50, 5000, 40_000, 300_000][dice.below(5).min(dice.below(5))];
    dice.below(most + 1)
}

/// `/ID/SIZE/WAY`.
fn parts(path: &str) -> (u64, usize, &str) {
    let mut parts = path[1..].split('/');
    let mut number = || parts.next().unwrap().parse::<u64>().unwrap();
    let (id, size) = (number(), number() as usize);
    (id, size, parts.next().unwrap())
}

/// Answers as the path says; a request whose body is not what its number makes it gets 400.
fn odd_server(seed: u64) -> SocketAddr {
    let dropped = Mutex::new(HashSet::new());
    let dice = Mutex::new(Dice::new(seed));
    let (address, _) = serving(move |request, peer| {
        let (id, size, way) = parts(request.path());
        let mut dice = Dice::new(dice.lock().unwrap().next());
        if request.method() == "POST" && request.body != body_of(id + 1, request.body.len()) {
            peer.say("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            return true;
        }
        if way == "drop" && dropped.lock().unwrap().insert(id) {
            return false;
        }
        if dice.below(4) == 0 {
            pace(Duration::from_micros(dice.below(3000) as u64));
        }
        let body = body_of(id, size);
        let head = format!("HTTP/1.1 200 OK\r\nX-Id: {id}\r\n");
        let rest = match way {
            "chunked" => [b"Transfer-Encoding: chunked\r\n\r\n", &*chunked(&body, 1 + dice.below(20_000))].concat(),
            "until-close" => [b"Connection: close\r\n\r\n", &*body].concat(),
            "close" => [format!("Connection: close\r\nContent-Length: {size}\r\n\r\n").as_bytes(), &body].concat(),
            _ => [format!("Content-Length: {size}\r\n\r\n").as_bytes(), &body].concat(),
        };
        let all = [head.as_bytes(), &rest].concat();
        let (first, second) = all.split_at(dice.below(all.len()));
        peer.say(first);
        if dice.below(8) == 0 {
            thread::yield_now();
        }
        peer.say(second);
        // Some go without a word.
        !matches!(way, "until-close" | "close" | "goes")
    });
    address
}

/// How a request may have ended.
#[derive(Debug, PartialEq)]
enum Ended {
    Answered,
    /// Nothing of an answer came, and the connection ended.
    Unanswered,
    /// The client itself had enough.
    Left,
}

fn ask(client: &mut Peer, dice: &mut Dice, id: u64) -> (Ended, bool) {
    let ways = ["length", "length", "length", "chunked", "chunked", "until-close", "close", "goes", "drop"];
    let (way, size) = (ways[dice.below(ways.len())], size_of(dice));
    let post = dice.below(3) == 0;
    let path = format!("/{id}/{size}/{way}");
    let request = if post {
        let body = body_of(id + 1, size_of(dice));
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\n");
        if dice.below(2) == 0 {
            let chunks = chunked(&body, 1 + dice.below(20_000));
            [head.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\n", &chunks].concat()
        } else {
            [head.as_bytes(), format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat()
        }
    } else {
        format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
    };
    let (first, second) = request.split_at(dice.below(request.len()));
    client.say(first);
    if dice.below(8) == 0 {
        pace(Duration::from_micros(dice.below(2000) as u64));
    }
    client.say(second);
    if dice.below(40) == 0 {
        // In the middle of everything, or before.
        let _ = client.some(&mut [0; 100]);
        return (Ended::Left, false);
    }
    let answer: Message = match client.answer() {
        Ok(answer) => answer,
        Err(error) => {
            assert!(post, "a GET always has an answer: {path}: {error}");
            return (Ended::Unanswered, false);
        }
    };
    // A POST that was the first on its connection, at a server that drops it.
    if post && way == "drop" && answer.status() == 502 {
        return (Ended::Unanswered, false);
    }
    assert_eq!((answer.status(), answer.field("x-id")), (200, Some(&*id.to_string())), "{path}");
    assert!(answer.body == body_of(id, size), "{path}: another body");
    let goes_on = !answer.says("close");
    (Ended::Answered, goes_on)
}

#[test]
fn everybody_gets_their_own_answer_whatever_happens_around_them() {
    let seed = std::env::var("SEED").map_or(0x1B_0DE, |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    let (front, sockets) = listeners(2);
    let servers = (0..3).map(|number| at(&number.to_string(), odd_server(seed + number))).collect();
    let mut plan = web(front, servers);
    plan.backends[0].retries = 3;
    let plane = start(plan, 2, sockets);
    let tally: Arc<[AtomicUsize; 3]> = Arc::default();
    let clients: Vec<_> = (0..CLIENTS as u64)
        .map(|number| {
            let tally = Arc::clone(&tally);
            thread::spawn(move || {
                let mut dice = Dice::new(seed ^ (number << 20));
                let mut client = Peer::to(front);
                for request in 0..REQUESTS as u64 {
                    let (ended, goes_on) = ask(&mut client, &mut dice, (number << 20) + 2 * request);
                    tally[ended as usize].fetch_add(1, SeqCst);
                    if !goes_on {
                        if dice.below(2) == 0 {
                            client.reset();
                        }
                        client = Peer::to(front);
                    }
                }
            })
        })
        .collect();
    let failed = clients.into_iter().filter_map(|client| client.join().err()).count();
    assert_eq!(failed, 0, "clients failed with SEED={seed}");
    let [answered, unanswered, left] = [0, 1, 2].map(|index| tally[index].load(SeqCst));
    assert_eq!(answered + unanswered + left, CLIENTS * REQUESTS);
    // Of the POSTs only those may be lost that met the end of their connection.
    assert!(answered > CLIENTS * REQUESTS * 8 / 10, "answered {answered}, unanswered {unanswered}, left {left}");
    let stats = plane.stats();
    assert!(stats.frontends[0].bad_requests.is_empty() && stats.backends[0].bad_responses.is_empty(), "{stats:?}");
}
