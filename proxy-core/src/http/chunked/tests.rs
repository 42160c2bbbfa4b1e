use proptest::prelude::*;

use super::*;

/// What goes on, what was consumed, whether it was done; the tail is part of what goes on.
fn whole(input: &[u8], keep: Keep) -> Result<(Vec<u8>, usize, bool), BadChunk> {
    split(input, keep, &[])
}

/// The same with the input cut into pieces of these lengths, and the rest.
fn split(input: &[u8], keep: Keep, lengths: &[usize]) -> Result<(Vec<u8>, usize, bool), BadChunk> {
    let mut body = Chunked::new(keep);
    let mut sent = Vec::new();
    let mut consumed = 0_usize;
    for length in lengths.iter().copied().chain([usize::MAX]) {
        let end = input.len().min(consumed.saturating_add(length));
        let mut piece = input[consumed..end].to_vec();
        let passed = body.pass(&mut piece)?;
        sent.extend_from_slice(&piece[..passed.forward]);
        consumed += passed.consumed;
        if passed.done {
            sent.extend_from_slice(body.tail());
            return Ok((sent, consumed, true));
        }
        assert_eq!(passed.consumed, piece.len(), "all is taken until the end");
    }
    Ok((sent, consumed, false))
}

fn framed(input: &str) -> Result<String, BadChunk> {
    let (sent, _, done) = whole(input.as_bytes(), Keep::Framing)?;
    assert!(done, "{input:?} goes on");
    Ok(String::from_utf8(sent).unwrap())
}

#[test]
fn a_plain_body_stays_as_it_is() {
    for body in ["0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "A\r\n0123456789\r\n00b\r\nhello world\r\n000\r\n\r\n"] {
        assert_eq!(framed(body).unwrap(), body);
    }
}

#[test]
fn data_alone_goes_on_to_who_wants_no_framing() {
    let (sent, ..) = whole(b"5;x=y\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\nX-Sum: 1\r\n\r\n", Keep::Data).unwrap();
    assert_eq!(sent, b"hello world");
}

#[test]
fn extensions_go() {
    let body = "5;a=b\r\nhello\r\n1 ; c=\"d;e\"\r\n!\r\n0;last\r\n\r\n";
    assert_eq!(framed(body).unwrap(), "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n");
}

#[test]
fn what_follows_the_body_is_left() {
    let (_, consumed, done) = whole(b"1\r\nx\r\n0\r\n\r\nGET / HTTP/1.1\r\n", Keep::Framing).unwrap();
    assert_eq!((consumed, done), (11, true));
}

#[test]
fn a_body_that_is_done_takes_no_more() {
    let mut body = Chunked::new(Keep::Framing);
    assert!(body.pass(&mut b"0\r\n\r\n".to_vec()).unwrap().done);
    assert_eq!(body.pass(&mut b"0\r\n\r\n".to_vec()), Ok(Passed { consumed: 0, forward: 0, done: true }));
}

#[test]
fn trailer_fields_go_on_but_those_that_do_not_belong_there() {
    let body = "0\r\nX-Sum: 1\r\nauthorization: Basic eA==\r\nX_Forwarded_For: ::1\r\ngrpc-status:0\r\n\r\n";
    assert_eq!(framed(body).unwrap(), "0\r\nX-Sum: 1\r\ngrpc-status:0\r\n\r\n");
    assert_eq!(framed("0\r\nCookie: a=b\r\n\r\n").unwrap(), "0\r\n\r\n");
}

#[test]
fn what_is_wrong_is_named() {
    let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(256));
    let endless = format!("0\r\n{}\r\n", "X-Name: value\r\n".repeat(600));
    for (body, reason) in [
        ("\r\n", BadChunk::ChunkSize),
        ("+5\r\n", BadChunk::ChunkSize),
        ("-1\r\n", BadChunk::ChunkSize),
        ("0x5\r\n", BadChunk::ChunkSize),
        ("1_0\r\n", BadChunk::ChunkSize),
        (" 5\r\n", BadChunk::ChunkSize),
        ("5 \r\nhello\r\n", BadChunk::ChunkSize),
        ("5\n", BadChunk::ChunkSize),
        ("g\r\n", BadChunk::ChunkSize),
        (";a\r\n", BadChunk::ChunkSize),
        ("00000000000000005\r\n", BadChunk::ChunkSize),
        ("ffffffffffffffff\r\n", BadChunk::ChunkSize),
        ("8000000000000000\r\n", BadChunk::ChunkSize),
        ("5;a\nb\r\n", BadChunk::ChunkExtension),
        ("5;a\0\r\n", BadChunk::ChunkExtension),
        ("5;\u{e9}\r\n", BadChunk::ChunkExtension),
        (&long, BadChunk::ChunkExtension),
        ("5\rx", BadChunk::ChunkEnd),
        ("5;a\rb", BadChunk::ChunkEnd),
        ("1\r\nxx\r\n", BadChunk::ChunkEnd),
        ("1\r\nx\n", BadChunk::ChunkEnd),
        ("1\r\nx\r\r\n", BadChunk::ChunkEnd),
        ("0\r\n\n", BadChunk::Trailer),
        ("0\r\n\rx", BadChunk::Trailer),
        ("0\r\nno colon\r\n", BadChunk::Trailer),
        ("0\r\nname : value\r\n", BadChunk::Trailer),
        ("0\r\nname: value\n", BadChunk::Trailer),
        ("0\r\nname: va\rlue\r\n", BadChunk::Trailer),
        ("0\r\na: b\r\n folded\r\n", BadChunk::Trailer),
        ("0\r\n: b\r\n", BadChunk::Trailer),
        ("0\r\nContent-Length: 5\r\n", BadChunk::TrailerForbidden),
        ("0\r\nTRANSFER_ENCODING: chunked\r\n", BadChunk::TrailerForbidden),
        ("0\r\nhost: other\r\n", BadChunk::TrailerForbidden),
        (&endless, BadChunk::TrailerTooLong),
    ] {
        assert_eq!(framed(body), Err(reason), "{body:?}");
    }
}

#[test]
fn the_greatest_size_is_taken_and_counted_down_across_pieces() {
    let mut body = Chunked::new(Keep::Framing);
    body.pass(&mut b"7fffffffffffffff\r\n".to_vec()).unwrap();
    for _ in 0..3 {
        let passed = body.pass(&mut vec![b'x'; 70_000]).unwrap();
        assert_eq!(passed, Passed { consumed: 70_000, forward: 70_000, done: false });
    }
    assert_eq!(body.at, At::Data { left: i64::MAX as u64 - 210_000 });
}

/// Bodies that are nearly right.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => (0_usize..40, any::<bool>()).prop_map(|(length, upper)| {
            let size = if upper { format!("{length:X}") } else { format!("{length:x}") };
            if length == 0 { b"1;ext=\"a b\"\r\nx\r\n".to_vec() } else { format!("{size}\r\n{}\r\n", "d".repeat(length)).into_bytes() }
        }),
        1 => Just(b"0\r\n\r\n".to_vec()),
        1 => Just(b"0\r\nX-A: b\r\nCookie: c\r\nX-D: e\r\n\r\nGET".to_vec()),
        1 => prop::collection::vec(prop::sample::select(&b"0159afAFx;= \t\r\n\"\0:-_"[..]), 0..6),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn where_the_input_is_cut_makes_no_difference(
        input in body(),
        data in any::<bool>(),
        lengths in prop::collection::vec(1_usize..9, 0..60),
    ) {
        let keep = if data { Keep::Data } else { Keep::Framing };
        prop_assert_eq!(split(&input, keep, &lengths), whole(&input, keep));
    }

    #[test]
    fn what_goes_on_is_taken_again_unchanged(input in body()) {
        if let Ok((sent, _, done)) = whole(&input, Keep::Framing) {
            prop_assert_eq!(whole(&sent, Keep::Framing), Ok((sent.clone(), sent.len(), done)));
            let (data, ..) = whole(&input, Keep::Data).unwrap();
            prop_assert_eq!(whole(&sent, Keep::Data).unwrap().0, data);
        }
    }

    #[test]
    fn no_input_is_too_strange(input in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = whole(&input, Keep::Framing);
    }
}
