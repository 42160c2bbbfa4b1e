//! Reads the cases. One case is a name, the section it comes from, and lines in the order in which things happen:
//!
//! ```text
//! == name of the case
//! rfc 9112 §6.1        which rule it tries
//! > line               the client sends this and CR LF; `>>` without CR LF; `>eof`: it has said all
//! ~ text               wait until what has reached the server ends with this
//! + line               what the server answers to the next request, in place of `200 ok`; `++` without CR LF;
//!                      `+eof`: then it closes
//! +late line           the server says this on its last connection now; `++late` without CR LF
//! = 200 ok             the client gets this status, and this body; without a text any body
//! = 400 bare_lf        an answer of ours for this reason, after which the connection is closed
//! = 200 cut            the body ends before its end
//! = 200 bodiless       the answer to a HEAD request
//! ! text               which is not in that answer
//! = closed             nothing more comes, and the connection is closed
//! %< surplus           an answer of the server's was refused for this reason; `%> chunk_size`: a request, without an
//!                      answer of ours that says so. What `=` and these say is all that is counted
//! @ 2                  the server saw so many connections
//! < line               this, in the end, is all that has reached the server; `<<` without CR LF
//! ```
//!
//! One space after the mark belongs to it. `\r`, `\n`, `\t`, `\0`, `\\` and `\x20` are bytes; `\{300:text}` is repetition.

#[derive(Debug, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) rfc: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) reaches: Vec<u8>,
    pub(crate) connections: Option<usize>,
    /// Reasons for which requests were refused silently.
    pub(crate) bad_requests: Vec<String>,
    pub(crate) bad_answers: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Send(Vec<u8>),
    SendEnd,
    Reached(Vec<u8>),
    /// What the server answers next, and whether it closes then.
    Answer(Vec<u8>, bool),
    Late(Vec<u8>),
    Get(u16, String),
    Lacks(String),
    Closed,
}

pub(crate) fn read(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        if mark == "==" {
            cases.push(Case { name: rest.into(), ..Case::default() });
            continue;
        }
        let case = cases.last_mut().expect("a case begins with its name");
        let whole = |rest| [bytes(rest), b"\r\n".to_vec()].concat();
        match mark {
            "rfc" => case.rfc = rest.into(),
            ">" => case.say(Step::Send(whole(rest))),
            ">>" => case.say(Step::Send(bytes(rest))),
            ">eof" => case.say(Step::SendEnd),
            "~" => case.say(Step::Reached(bytes(rest))),
            "+" => case.say(Step::Answer(whole(rest), false)),
            "++" => case.say(Step::Answer(bytes(rest), false)),
            "+eof" => case.say(Step::Answer(Vec::new(), true)),
            "+late" => case.say(Step::Late(whole(rest))),
            "++late" => case.say(Step::Late(bytes(rest))),
            "!" => case.say(Step::Lacks(rest.into())),
            "=" if rest == "closed" => case.say(Step::Closed),
            "=" => {
                let (status, what) = rest.split_once(' ').unwrap_or((rest, ""));
                case.say(Step::Get(status.parse().expect("a status"), what.into()));
            }
            "%>" => case.bad_requests.push(rest.into()),
            "%<" => case.bad_answers.push(rest.into()),
            "@" => case.connections = Some(rest.parse().expect("a number")),
            "<" => case.reaches.extend(whole(rest)),
            "<<" => case.reaches.extend(bytes(rest)),
            _ => panic!("case `{}`: what is `{line}`?", case.name),
        }
    }
    cases
}

impl Case {
    /// Adds a step; lines of one kind in a row are one.
    fn say(&mut self, step: Step) {
        match (self.steps.last_mut(), step) {
            (Some(Step::Send(said)), Step::Send(more)) | (Some(Step::Late(said)), Step::Late(more)) => {
                said.extend(more)
            }
            (Some(Step::Answer(said, end @ false)), Step::Answer(more, last)) => {
                said.extend(more);
                *end = last;
            }
            (_, step) => self.steps.push(step),
        }
    }
}

fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        if character != '\\' {
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let (byte, length) = match rest.as_bytes() {
            [b'r', ..] => (b'\r', 1),
            [b'n', ..] => (b'\n', 1),
            [b't', ..] => (b'\t', 1),
            [b'0', ..] => (0, 1),
            [b'\\', ..] => (b'\\', 1),
            [b'x', ..] => (u8::from_str_radix(&rest[1..3], 16).expect("two digits"), 3),
            [b'{', ..] => {
                let (count, text) = rest[1..].split_once(':').expect("a number and a colon");
                let (text, after) = text.split_once('}').expect("a closing brace");
                out.extend(bytes(text).repeat(count.parse().expect("a number")));
                rest = after;
                continue;
            }
            _ => panic!("what is `\\{rest}`?"),
        };
        out.push(byte);
        rest = &rest[length..];
    }
    out
}
