//! What the kernel alone takes for a check that only connects: the floor under the row `checks … TCP`.
//!
//! `taskset -c 1 cargo run --release -p bench --example connects [SERVERS]` connects to as many listeners, each with an
//! address of its own, fifty at a time as a beat of checks does, with the system calls that the proxy core makes and nothing
//! else: `TCP_QUICKACK` off, connect, connect again to see that it is open, and the reset. It prints the CPU time of each.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use rustix::net::sockopt::set_tcp_quickack;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, connect_unspec, socket_with};

/// Each server is asked so often.
const ROUNDS: usize = 5;
const TOGETHER: usize = 50;

fn main() -> io::Result<()> {
    let servers = std::env::args().nth(1).and_then(|servers| servers.parse().ok()).unwrap_or(10_000);
    let first = Ipv4Addr::new(127, 128, 0, 0).to_bits() | (std::process::id() & 0x1ff) << 14;
    let address = |number| SocketAddr::from((Ipv4Addr::from_bits(first + number), 8000));
    let listeners: Vec<_> = (1..=servers).map(|number| TcpListener::bind(address(number))).collect::<Result<_, _>>()?;
    let addresses: Vec<_> = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    let socket = || socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK, None);
    let sockets: Vec<_> = (0..TOGETHER).map(|_| socket()).collect::<Result<_, _>>()?;
    let before = used()?;
    for _ in 0..ROUNDS {
        for some in addresses.chunks(TOGETHER) {
            for (socket, address) in sockets.iter().zip(some) {
                set_tcp_quickack(socket, false)?;
                // In progress: the next one says how it went.
                let _ = connect(socket, address);
            }
            for (socket, address) in sockets.iter().zip(some) {
                connect(socket, address)?;
                connect_unspec(socket)?;
            }
            // Until the next beat.
            thread::park_timeout(Duration::from_millis(2));
        }
    }
    let after = used()?;
    let each = |part: usize| (after[part] - before[part]) as f64 / (ROUNDS * addresses.len()) as f64;
    println!("{:.2} µs a connect, {:.2} of them user", each(0) + each(1), each(0));
    Ok(())
}

/// User and system time of this thread in microseconds.
fn used() -> io::Result<[i64; 2]> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let micros = |time: TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    Ok([micros(usage.user_time()), micros(usage.system_time())])
}
