//! Requests from a seed. Most are valid, in every shape the grammar allows; some have one oddity that the RFCs forbid, or
//! that implementations are known to disagree about. The oddity is in the last request of its case.

use std::io::Write as _;

/// What one client sends over one connection.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// In every request's path.
    pub(crate) number: usize,
    /// Everything, ending with a valid request that asks for the connection to be closed.
    pub(crate) bytes: Vec<u8>,
    /// What is odd about it.
    pub(crate) oddities: Vec<&'static str>,
    /// What the client means, in order; the last one closes.
    pub(crate) requests: Vec<Draft>,
}

/// A request as parts, each of which can be bent.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) before: Vec<u8>,
    pub(crate) method: Vec<u8>,
    pub(crate) target: Vec<u8>,
    pub(crate) version: Vec<u8>,
    pub(crate) line_end: Vec<u8>,
    pub(crate) fields: Vec<Field>,
    pub(crate) head_end: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

/// One header line as parts.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) name: Vec<u8>,
    pub(crate) colon: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) end: Vec<u8>,
}

/// SplitMix64: small, and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len())]
    }
}

/// Case `index` of a seed.
pub(crate) fn case(seed: u64, index: usize) -> Case {
    let mut random = Random(seed ^ (index as u64).wrapping_mul(0xa076_1d64_78bd_642f));
    let random = &mut random;
    let count = if random.chance(70) { 1 } else { 2 + random.below(3) };
    let mut requests: Vec<Draft> = (0..count).map(|place| request(random, index, place)).collect();
    let mut oddities = Vec::new();
    if random.chance(40) {
        let (name, bend) = random.pick(ODDITIES);
        bend(requests.last_mut().expect("there is one at least"), random);
        oddities.push(name);
    }
    let mut last = Draft::new(b"GET", format!("/p/{index}/last").into_bytes());
    last.fields.push(Field::new("Connection", "close"));
    requests.push(last);
    let mut bytes = Vec::new();
    for request in &requests {
        request.render(&mut bytes);
    }
    Case { number: index, bytes, oddities, requests }
}

impl Case {
    /// Whether this is what is odd about it.
    pub(crate) fn is_odd(&self, name: &str) -> bool {
        self.oddities.contains(&name)
    }

    /// Whether some of it is HTTP/1.0.
    pub(crate) fn has_old(&self) -> bool {
        self.requests.iter().any(|request| request.version == b"HTTP/1.0")
    }

    /// Whether an answer of 1xx is to be expected.
    pub(crate) fn asks_interim(&self) -> bool {
        let mut fields = self.requests.iter().flat_map(|request| &request.fields);
        fields.any(|field| {
            let value = field.value.to_ascii_lowercase();
            value.starts_with(b"100-continue") || [b"100".as_slice(), b"103", b"many-100"].contains(&value.as_slice())
        })
    }
}

impl Draft {
    fn new(method: &[u8], target: Vec<u8>) -> Draft {
        Draft {
            before: Vec::new(),
            method: method.to_vec(),
            target,
            version: b"HTTP/1.1".to_vec(),
            line_end: b"\r\n".to_vec(),
            fields: vec![Field::new("Host", "a.test")],
            head_end: b"\r\n".to_vec(),
            body: Vec::new(),
        }
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.before);
        for (part, end) in [(&self.method, b" ".as_slice()), (&self.target, b" "), (&self.version, &self.line_end)] {
            out.extend_from_slice(part);
            out.extend_from_slice(end);
        }
        for Field { name, colon, value, end } in &self.fields {
            for part in [name, colon, value, end] {
                out.extend_from_slice(part);
            }
        }
        out.extend_from_slice(&self.head_end);
        out.extend_from_slice(&self.body);
    }

    fn remove(&mut self, name: &str) {
        self.fields.retain(|field| !field.name.eq_ignore_ascii_case(name.as_bytes()));
    }

    fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.fields.push(Field::new(name, value));
    }

    /// No body, whatever it had.
    fn bare(&mut self) {
        self.remove("content-length");
        self.remove("transfer-encoding");
        self.remove("trailer");
        self.remove("expect");
        self.body.clear();
    }

    /// A chunked body, whatever it had.
    fn chunked(&mut self, body: &[u8]) {
        self.bare();
        self.fields.push(Field::new("Transfer-Encoding", "chunked"));
        self.body = body.to_vec();
    }

    /// Says in a field which case it is, for a target that doesn't.
    fn name_case(&mut self) {
        let target = String::from_utf8_lossy(&self.target);
        let case = target.split("/p/").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default().to_owned();
        self.fields.push(Field::new("X-Case", &case));
    }

    /// A field that can be bent without changing what the request means.
    fn spare(&mut self) -> &mut Field {
        self.fields.push(Field::new("X-Spare", "spare"));
        self.fields.last_mut().expect("it was just pushed")
    }
}

impl Field {
    pub(crate) fn new(name: &str, value: &str) -> Field {
        Field { name: name.into(), colon: b": ".to_vec(), value: value.into(), end: b"\r\n".to_vec() }
    }
}

/// A valid request.
fn request(random: &mut Random, case: usize, place: usize) -> Draft {
    let method =
        random.pick(&["GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "QUERY"]);
    let tail = random.pick(&[
        "",
        "",
        "/",
        "/a.b-c_d~e",
        "/%20%2e%2F",
        "/a//b",
        "/a/../b/.",
        ";v=1",
        "?",
        "?q=1&r=%26",
        "/?a?b",
    ]);
    let mut draft = Draft::new(method.as_bytes(), format!("/p/{case}/{place}{tail}").into_bytes());
    if random.chance(6) {
        draft.target.splice(0..0, *b"http://a.test");
    }
    if random.chance(10) {
        draft.version = b"HTTP/1.0".to_vec();
    }
    for _ in 0..random.below(7) {
        let field = ordinary_field(random);
        let at = random.below(draft.fields.len() + 1);
        draft.fields.insert(at, field);
    }
    if random.chance(12) {
        let value = random.pick(&["keep-alive", "close", "Close", "X-Hop", "keep-alive, X-Hop", "close , x-hop", ""]);
        draft.fields.push(Field::new("Connection", value));
        if value.to_ascii_lowercase().contains("x-hop") {
            draft.fields.push(Field::new("X-Hop", "between us"));
        }
    }
    if random.chance(4) {
        draft.fields.push(Field::new("TE", random.pick(&["trailers", "gzip;q=0.5", ""])));
    }
    if random.chance(60) {
        let answer = random.pick(&[
            "length",
            "empty",
            "chunked",
            "chunked",
            "trailer",
            "close",
            "204",
            "304",
            "304-length",
            "404",
            "500",
            "100",
            "103",
            "old",
            "old-keep-alive",
            "last",
            "cases",
            "hop",
            "long",
            "many-100",
        ]);
        draft.fields.push(Field::new("X-Answer", answer));
    }
    let with_body = match method {
        "POST" | "PUT" | "PATCH" | "QUERY" => random.chance(90),
        _ => random.chance(5),
    };
    if with_body {
        body(random, &mut draft);
    }
    if random.chance(30) {
        shuffle(random, &mut draft.fields);
    }
    if random.chance(30) {
        for field in &mut draft.fields {
            change_case(random, &mut field.name);
        }
    }
    draft
}

fn ordinary_field(random: &mut Random) -> Field {
    let names = [
        "Accept",
        "accept-language",
        "User-Agent",
        "Cookie",
        "X-Forwarded-For",
        "X_Under",
        "x-1",
        "!#$%&'*+.^`|~",
        "Authorization",
        "Cache-Control",
        "If-None-Match",
        "Range",
        "Referer",
        "Via",
        "Max-Forwards",
        "X-Empty",
    ];
    let values = [
        "",
        "*/*",
        "a",
        "a, b ,c",
        "\"quoted, \\\" text\"",
        "a=1; b=2",
        "Basic dTpw",
        "bytes=0-3",
        "http://b.test/?x",
        "a\tb",
        "1.1 old",
        "tr\u{e4}ge",
        "()<>@,;:\\\"/[]?={}",
        "W/\"etag\"",
        "0",
    ];
    let mut field = Field::new(random.pick(&names), random.pick(&values));
    field.colon = random.pick(&[b": ".as_slice(), b": ", b": ", b":", b":  ", b":\t"]).to_vec();
    if random.chance(10) {
        field.value.extend_from_slice(random.pick(&[b" ".as_slice(), b"  ", b"\t", b" \t "]));
    }
    field
}

fn body(random: &mut Random, draft: &mut Draft) {
    let length = random.pick(&[0, 1, 2, 17, 100, 1000, 5000, 20_000, 40_000]);
    let content: Vec<u8> = (0..length).map(|_| random.pick(b"abcdefgh0123\r\n")).collect();
    // A client that speaks HTTP/1.0 knows no chunks.
    if draft.version == b"HTTP/1.0" || random.chance(55) {
        draft.fields.push(Field::new("Content-Length", &length.to_string()));
        draft.body = content;
    } else {
        let name = random.pick(&["chunked", "chunked", "Chunked", "CHUNKED"]);
        draft.fields.push(Field::new("Transfer-Encoding", name));
        let mut left = content.as_slice();
        while !left.is_empty() {
            let (chunk, rest) = left.split_at((1 + random.below(3000)).min(left.len()));
            let size = random.pick(&["x", "X", "0x", "ext"]);
            match size {
                "x" => write!(draft.body, "{:x}\r\n", chunk.len()),
                "X" => write!(draft.body, "{:X}\r\n", chunk.len()),
                "0x" => write!(draft.body, "000{:x}\r\n", chunk.len()),
                _ => write!(draft.body, "{:x};name=value\r\n", chunk.len()),
            }
            .expect("a vector grows");
            draft.body.extend_from_slice(chunk);
            draft.body.extend_from_slice(b"\r\n");
            left = rest;
        }
        draft.body.extend_from_slice(b"0\r\n");
        if random.chance(15) {
            draft.fields.push(Field::new("Trailer", "X-Sum"));
            draft.body.extend_from_slice(b"X-Sum: 1\r\n");
        }
        draft.body.extend_from_slice(b"\r\n");
    }
    if draft.version == b"HTTP/1.1" && random.chance(8) {
        draft.fields.push(Field::new("Expect", "100-continue"));
    }
}

fn shuffle(random: &mut Random, fields: &mut [Field]) {
    for last in (1..fields.len()).rev() {
        fields.swap(last, random.below(last + 1));
    }
}

fn change_case(random: &mut Random, name: &mut [u8]) {
    for byte in name {
        if random.chance(30) {
            *byte = if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
        }
    }
}

/// A way to bend a request.
type Bend = fn(&mut Draft, &mut Random);

const ODDITIES: &[(&str, Bend)] = &[
    ("lf-after-field", |draft, _| draft.spare().end = b"\n".to_vec()),
    ("lf-after-request-line", |draft, _| draft.line_end = b"\n".to_vec()),
    ("lf-ends-head", |draft, _| draft.head_end = b"\n".to_vec()),
    ("cr-in-value", |draft, _| draft.spare().value = b"a\rb".to_vec()),
    ("cr-in-name", |draft, _| draft.spare().name = b"X-a\rb".to_vec()),
    ("nul-in-value", |draft, _| draft.spare().value = b"a\0b".to_vec()),
    ("control-in-value", |draft, random| draft.spare().value = vec![b'a', random.pick(&[1, 8, 11, 27, 127]), b'b']),
    ("fold", |draft, random| draft.spare().value = random.pick(&[b"a\r\n b".as_slice(), b"a\r\n\tb"]).to_vec()),
    ("fold-first", |draft, _| draft.fields.insert(0, Field { name: b" X-First".to_vec(), ..Field::new("", "a") })),
    ("space-before-colon", |draft, random| draft.spare().colon = random.pick(&[b" : ".as_slice(), b"\t: "]).to_vec()),
    ("space-in-name", |draft, _| draft.spare().name = b"X Spare".to_vec()),
    ("no-colon", |draft, _| draft.spare().colon = Vec::new()),
    ("no-name", |draft, _| draft.spare().name = Vec::new()),
    ("bad-name", |draft, random| {
        let byte = random.pick(b"(){}@,;\\\"/[]?=<>");
        draft.spare().name = vec![b'X', byte, b'Y'];
    }),
    ("high-byte-in-name", |draft, _| draft.spare().name = b"X-\xe4".to_vec()),
    ("no-host", |draft, _| draft.remove("host")),
    ("two-hosts", |draft, random| draft.fields.push(Field::new("Host", random.pick(&["a.test", "b.test"])))),
    ("empty-host", |draft, _| draft.set("Host", "")),
    ("bad-host", |draft, random| {
        draft.set(
            "Host",
            random.pick(&[
                "a test",
                "a/b",
                "a@b",
                "a,b",
                "a:b",
                "a:99999",
                "[::1",
                "a.test:80:80",
                "a?b",
                "a#b",
                "\\a",
            ]),
        );
    }),
    ("good-host", |draft, random| {
        let hosts = ["A.TEST:80", "a.test:", "[::1]:80", "127.0.0.1", "a_b", "a.test.", "xn--a", "a-.test", "a%41"];
        draft.set("Host", random.pick(&hosts));
    }),
    ("absolute-other-host", |draft, _| draft.target.splice(0..0, *b"http://other.test").for_each(drop)),
    ("absolute-scheme", |draft, random| {
        let scheme =
            random.pick(&["https://a.test", "HTTP://a.test", "ftp://a.test", "http:/", "http://", "http://u@a.test"]);
        draft.target.splice(0..0, scheme.bytes());
    }),
    ("target-no-slash", |draft, _| draft.target.insert(0, b'x')),
    ("target-fragment", |draft, _| draft.target.extend_from_slice(b"#part")),
    ("target-space", |draft, _| draft.target.extend_from_slice(b" x")),
    ("target-high-byte", |draft, _| draft.target.push(0xe4)),
    ("target-control", |draft, random| draft.target.push(random.pick(&[0, 1, 9, 127]))),
    ("target-odd", |draft, random| draft.target.push(random.pick(b"\"<>\\^`{|}"))),
    ("target-star", |draft, _| {
        draft.name_case();
        (draft.method, draft.target) = (b"OPTIONS".to_vec(), b"*".to_vec());
    }),
    ("method-lower", |draft, _| draft.method.make_ascii_lowercase()),
    ("method-odd", |draft, random| {
        draft.method = random.pick(&["FOO", "M-SEARCH", "G'T", "VERSION-CONTROL"]).as_bytes().to_vec()
    }),
    ("method-bad", |draft, random| draft.method = random.pick(&["G(T", "G\0T", "", "G\tT", "G@T"]).as_bytes().to_vec()),
    ("method-trace", |draft, _| {
        draft.bare();
        draft.method = b"TRACE".to_vec();
    }),
    ("method-connect", |draft, random| {
        draft.bare();
        draft.name_case();
        draft.method = b"CONNECT".to_vec();
        if random.chance(70) {
            draft.target = b"a.test:443".to_vec();
        }
    }),
    ("version-odd", |draft, random| {
        let versions = [
            "HTTP/1.2",
            "HTTP/2.0",
            "HTTP/0.9",
            "HTTP/1",
            "HTTP/1.10",
            "HTTP/01.1",
            "http/1.1",
            "HTP/1.1",
            "HTTP/1.1 ",
            " HTTP/1.1",
            "",
        ];
        draft.version = random.pick(&versions).as_bytes().to_vec();
    }),
    ("lines-before", |draft, random| {
        draft.before = random.pick(&[b"\r\n".as_slice(), b"\r\n\r\n", b"\n", b"\r\n\n"]).to_vec()
    }),
    ("length-twice-same", |draft, _| with_length(draft, &["5", "5"])),
    ("length-twice-other", |draft, _| with_length(draft, &["5", "6"])),
    ("length-list", |draft, random| with_length(draft, &[random.pick(&["5, 5", "5,5", "5, 6", "5,", ",5"])])),
    ("length-odd", |draft, random| {
        with_length(draft, &[random.pick(&["+5", "-5", "0x5", "5 5", "5.0", "", "five", "٥", "05", "5;"])])
    }),
    ("length-huge", |draft, random| {
        let huge = ["18446744073709551616", "9223372036854775808", "99999999999999999999999", "18446744073709551621"];
        with_length(draft, &[random.pick(&huge)]);
    }),
    ("length-and-chunked", |draft, random| {
        draft.chunked(b"5\r\nhello\r\n0\r\n\r\n");
        let at = random.below(draft.fields.len() + 1);
        draft.fields.insert(at, Field::new("Content-Length", random.pick(&["5", "0", "100"])));
    }),
    ("coding-odd", |draft, random| {
        draft.chunked(b"5\r\nhello\r\n0\r\n\r\n");
        let odd = [
            "identity",
            "gzip, chunked",
            "chunked, gzip",
            "chunked, chunked",
            "xchunked",
            "chunkedx",
            "\"chunked\"",
            "chunked;q=1",
            "",
            "chunked,",
            ", chunked",
            "identity, chunked",
            "\x0bchunked",
            "gzip",
        ];
        draft.set("Transfer-Encoding", random.pick(&odd));
    }),
    ("coding-twice", |draft, random| {
        draft.chunked(b"5\r\nhello\r\n0\r\n\r\n");
        draft.fields.push(Field::new("Transfer-Encoding", random.pick(&["chunked", "identity", "gzip"])));
    }),
    ("coding-old-version", |draft, _| {
        draft.chunked(b"5\r\nhello\r\n0\r\n\r\n");
        draft.version = b"HTTP/1.0".to_vec();
    }),
    ("chunk-size-bad", |draft, random| {
        let sizes = [
            "0x5",
            "5h",
            "-5",
            "+5",
            " 5",
            "5 ",
            "5\t",
            "",
            "g",
            "5_",
            "10000000000000005",
            "FFFFFFFFFFFFFFFF5",
            "5 5",
        ];
        draft.chunked(format!("{}\r\nhello\r\n0\r\n\r\n", random.pick(&sizes)).as_bytes());
    }),
    ("chunk-lf", |draft, random| {
        let bodies =
            ["5\nhello\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "5\r\nhello\r\n0\n\r\n", "5\r\nhello\r\n0\r\n\n"];
        draft.chunked(random.pick(&bodies).as_bytes());
    }),
    ("chunk-end-bad", |draft, random| {
        draft.chunked(
            random.pick(&["5\r\nhelloXX0\r\n\r\n", "5\r\nhello0\r\n\r\n", "5\r\nhello\r\r\n0\r\n\r\n"]).as_bytes(),
        );
    }),
    ("chunk-extension-odd", |draft, random| {
        let extensions =
            [";", ";a", ";a=", ";a=\"b;c\"", ";a=\"b", " ;a=b", ";a b", ";\0", ";a=\rb", ";a\nb", ";\u{e4}"];
        draft.chunked(format!("5{}\r\nhello\r\n0\r\n\r\n", random.pick(&extensions)).as_bytes());
    }),
    ("trailer-odd", |draft, random| {
        let trailers = [
            "Content-Length: 5\r\n",
            "Host: b.test\r\n",
            "X : a\r\n",
            "X\r\n",
            " fold\r\n",
            "X: a\0b\r\n",
            "Transfer-Encoding: chunked\r\n",
        ];
        draft.chunked(format!("5\r\nhello\r\n0\r\n{}\r\n", random.pick(&trailers)).as_bytes());
    }),
    ("head-long", |draft, random| {
        draft.spare().value = vec![b'a'; random.pick(&[7000, 15_000, 16_400, 40_000, 70_000])]
    }),
    ("target-long", |draft, random| {
        draft.target.push(b'?');
        draft.target.extend(vec![b'a'; random.pick(&[7000, 15_000, 16_400, 40_000])]);
    }),
    ("fields-many", |draft, random| {
        for number in 0..random.pick(&[60, 95, 105, 130, 300]) {
            draft.fields.push(Field::new(&format!("X-{number}"), "a"));
        }
    }),
    ("upgrade", |draft, random| {
        draft.bare();
        draft.method = b"GET".to_vec();
        draft.set("Connection", "Upgrade");
        draft.set("Upgrade", random.pick(&["websocket", "h2c", "TLS/1.0", "foo"]));
    }),
    ("expect-odd", |draft, random| draft.set("Expect", random.pick(&["100-Continue", "something", "100-continue, x"]))),
    ("answer-bad", |draft, random| {
        let bad = [
            "bad-lengths",
            "bad-both",
            "bad-status",
            "bad-version",
            "bad-lf",
            "bad-name",
            "bad-chunk",
            "bad-fold",
            "bad-space",
            "short",
            "nothing",
        ];
        draft.set("X-Answer", random.pick(&bad));
    }),
];

fn with_length(draft: &mut Draft, values: &[&str]) {
    draft.bare();
    for value in values {
        draft.fields.push(Field::new("Content-Length", value));
    }
    draft.body = b"hello".to_vec();
}
