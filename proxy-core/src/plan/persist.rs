//! How a client stays with its server: by a stick table, or by a cookie.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a backend remembers a client's server by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Persist {
    /// Index into [`super::Plan::stick_tables`].
    Table(usize),
    /// HTTP only.
    Cookie(Box<Cookie>),
}

/// A cookie that names a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cookie {
    /// A token.
    pub name: String,
    /// Whose cookie it is.
    pub mode: CookieMode,
    /// `Secure`: over TLS only.
    pub secure: bool,
    /// `HttpOnly`: not for scripts.
    pub http_only: bool,
    /// `SameSite`.
    pub same_site: Option<SameSite>,
    /// `Domain`.
    pub domain: Option<String>,
    /// A client that was silent for longer is balanced anew; kept in the cookie.
    pub max_idle: Option<Duration>,
    /// A cookie that is older is not followed; kept in the cookie.
    pub max_life: Option<Duration>,
}

/// Whose cookie it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CookieMode {
    /// Ours: set for the client, taken from the request before a server sees it.
    Insert,
    /// The servers': the value of what they set is replaced with the server's.
    Rewrite,
    /// The servers': the server's value and `~` come before what they set, and go before they see it again.
    Prefix,
}

/// RFC 6265bis §4.1.2.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SameSite {
    /// `Strict`
    Strict,
    /// `Lax`
    Lax,
    /// `None`
    None,
}

/// What is known of clients for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickTable {
    /// Unique among tables.
    pub name: String,
    /// What an entry is found by.
    pub key: StickKey,
    /// Entries at most; one more takes the place of the one that was used longest ago.
    pub size: u32,
    /// After so much time without use an entry goes.
    pub expire: Duration,
    /// What is counted of each.
    pub counters: Vec<StickCounter>,
}

/// What an entry is found by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StickKey {
    /// The client's address, with so many leading bits; an IPv4 address keeps all of its own if there are more.
    Source {
        /// 1 to 32.
        v4: u8,
        /// 1 to 128.
        v6: u8,
    },
    /// The first value of a header.
    Header(String),
    /// The first value of a cookie.
    Cookie(String),
    /// The path without the query.
    Path,
    /// The name that was asked for over TLS.
    Sni,
}

/// One thing that is counted of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StickCounter {
    /// Connections now.
    ConnCur,
    /// Connections ever.
    ConnCnt,
    /// Connections within the last period.
    ConnRate(Duration),
    /// Requests ever.
    HttpReqCnt,
    /// Requests within the last period.
    HttpReqRate(Duration),
    /// Requests that were answered 4xx, or refused, within the last period.
    HttpErrRate(Duration),
    /// Bytes from the client within the last period.
    BytesInRate(Duration),
    /// Bytes to the client within the last period.
    BytesOutRate(Duration),
    /// A counter of the rules' own.
    Gpc0,
}
