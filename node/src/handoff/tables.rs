//! Which nft tables there are, and their removal, by netlink (linux/netfilter/nf_tables.h): it takes a fraction of a
//! millisecond, and needs no `nft`, which only turns text into rules.
//!
//! Closing such a socket waits for the kernel to clear away what was deleted before, whoever deleted it: up to 20 ms.
//! So it is closed on a thread of its own.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::thread;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

use super::rules::PREFIX;
use crate::netlink::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, attributes, error, message, messages, truncated,
};

/// The subsystem, in the upper half of a message's type.
const NFTABLES: u16 = 10;
const NEWTABLE: u16 = NFTABLES << 8;
const GETTABLE: u16 = NFTABLES << 8 | 1;
const DELTABLE: u16 = NFTABLES << 8 | 2;
const NEWRULE: u16 = NFTABLES << 8 | 6;
const GETRULE: u16 = NFTABLES << 8 | 7;
/// Around what belongs to one transaction.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// Bytes of `struct nfgenmsg`, before the attributes.
const GENERAL: usize = 4;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_RULE_TABLE: u16 = 1;
/// The group that hears of every change (NFNLGRP_NFTABLES), as a bit.
const CHANGES: u32 = 1 << 6;

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Table {
    /// NFPROTO_IPV4, NFPROTO_ARP, …
    pub family: u8,
    /// Its name.
    pub name: String,
}

/// A socket of nftables.
#[derive(Debug)]
pub(super) struct Netlink(Option<OwnedFd>);

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_ref().expect("only Drop takes it").as_raw_fd()
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        let socket = self.0.take();
        // Without a thread it is closed here, and takes its time.
        let _ = thread::Builder::new().name("close-netlink".into()).spawn(move || drop(socket));
    }
}

/// All tables of ours in this network namespace.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_ADMIN.
pub(super) fn ours() -> io::Result<Vec<Table>> {
    let netlink = open(0)?;
    let mut found = Vec::new();
    let listed = dump(&netlink, GETTABLE, &general(0), |kind, body| {
        if kind == NEWTABLE
            && let [family, ..] = *body
            && let Some(name) = text(body, NFTA_TABLE_NAME).filter(|name| name.starts_with(PREFIX))
        {
            found.push(Table { family, name });
        }
    });
    match listed {
        // A kernel without nftables has no tables.
        Err(error) if [libc::EINVAL, libc::EOPNOTSUPP].contains(&error.raw_os_error().unwrap_or(0)) => Ok(Vec::new()),
        listed => listed.map(|()| found),
    }
}

/// How many rules a table has.
///
/// # Errors
/// The kernel's.
pub(super) fn rules(table: &Table) -> io::Result<usize> {
    let netlink = open(0)?;
    let mut count = 0;
    let question = [general(table.family), string(NFTA_RULE_TABLE, &table.name)].concat();
    dump(&netlink, GETRULE, &question, |kind, body| {
        // Kernels that don't filter answer for every table.
        count += usize::from(kind == NEWRULE && text(body, NFTA_RULE_TABLE).is_some_and(|name| name == table.name));
    })?;
    Ok(count)
}

/// Deletes a table with all that is in it; says whether there was one. It is looked for before: a transaction that
/// fails waits as long as one that deletes.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_ADMIN.
pub(super) fn delete(table: &Table) -> io::Result<bool> {
    if !ours()?.contains(table) {
        return Ok(false);
    }
    let netlink = open(0)?;
    let around = |kind| message(kind, NLM_F_REQUEST, &[&[0, 0][..], &NFTABLES.to_be_bytes()].concat());
    let body = [general(table.family), string(NFTA_TABLE_NAME, &table.name)].concat();
    let transaction =
        [around(BATCH_BEGIN), message(DELTABLE, NLM_F_REQUEST | NLM_F_ACK, &body), around(BATCH_END)].concat();
    send(netlink.as_raw_fd(), &transaction, MsgFlags::empty())?;
    let mut buffer = vec![0; 8 << 10];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if let Some((_, body)) = messages(&buffer[..length]).find(|(kind, _)| *kind == NLMSG_ERROR) {
            return match error(body) {
                None => Ok(true),
                Some(libc::ENOENT) => Ok(false),
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            };
        }
    }
}

/// A socket that becomes readable whenever anything about nftables changed in this network namespace.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_ADMIN.
pub(super) fn changes() -> io::Result<Netlink> {
    open(CHANGES)
}

fn open(groups: u32) -> io::Result<Netlink> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(Netlink(Some(netlink)))
}

fn dump(netlink: &Netlink, kind: u16, question: &[u8], mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
    send(netlink.as_raw_fd(), &message(kind, NLM_F_REQUEST | NLM_F_DUMP, question), MsgFlags::empty())?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for (kind, body) in messages(&buffer[..length]) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return Err(error(body).map_or_else(truncated, io::Error::from_raw_os_error)),
                kind => each(kind, body),
            }
        }
    }
}

/// `struct nfgenmsg`: family, version 0, no resource.
fn general(family: u8) -> Vec<u8> {
    vec![family, 0, 0, 0]
}

/// An attribute that holds a string.
fn string(kind: u16, value: &str) -> Vec<u8> {
    let mut attribute = Vec::with_capacity(value.len() + 8);
    attribute.extend((value.len() as u16 + 5).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value.as_bytes());
    attribute.push(0);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

fn text(body: &[u8], kind: u16) -> Option<String> {
    let (_, value) = attributes(body.get(GENERAL..)?).find(|(found, _)| *found == kind)?;
    Some(CStr::from_bytes_until_nul(value).ok()?.to_str().ok()?.to_owned())
}
