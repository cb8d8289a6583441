use super::*;
use proptest::prelude::*;

/// The verdict on `bytes`: how many of them are good, and what is wrong with the next.
fn check(bytes: &[u8]) -> Result<(), (usize, Violation)> {
    Framing::new().check(bytes)
}

#[test]
fn well_framed_requests_pass() {
    for text in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-LENGTH:\t5 \r\nHost: a\r\n\r\n\x00\r\n\x01\x7fGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n00a\r\n0123456789\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nEmpty:\r\nTab:a\tb\r\nContent-Length-Hint: x\r\n\r\n",
    ] {
        assert_eq!(check(text.as_bytes()), Ok(()), "{text:?}");
    }
    assert_eq!(check(b"GET / HTTP/1.1\r\nX: caf\xc3\xa9\r\n\r\n"), Ok(()));
}

#[test]
fn each_ambiguity_is_refused_where_it_begins() {
    use Violation::*;
    let head = "POST / HTTP/1.1\r\n";
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (prefix, rest, good, violation) in [
        ("", "\r\n\r\n", 2, EmptyLines),
        ("", "\n", 0, BareNewline),
        ("", "GET / HTTP/1.1\n", 14, BareNewline),
        ("", "GET / HTTP/1.1\rX", 15, BareNewline),
        ("", "GET  / HTTP/1.1\r\n", 4, RequestLine),
        ("", "GET /a b HTTP/1.1\r\n", 8, RequestLine),
        ("", "GET /\r\n", 5, RequestLine),
        ("", "GET / \r\n", 6, RequestLine),
        ("", "GET\t/ HTTP/1.1\r\n", 3, RequestLine),
        ("", "GET /\x07 HTTP/1.1\r\n", 5, RequestLine),
        ("", "G(T / HTTP/1.1\r\n", 1, RequestLine),
        ("", " GET / HTTP/1.1\r\n", 0, RequestLine),
        (head, "Host : a\r\n", 4, HeaderName),
        (head, "Host\x00: a\r\n", 4, HeaderName),
        (head, ": a\r\n", 0, HeaderName),
        (head, "X: a\r\n b\r\n", 6, FoldedHeader),
        (head, "\tX: a\r\n", 0, FoldedHeader),
        (head, "X: a\x00\r\n", 4, HeaderValue),
        (head, "X: a\x7f\r\n", 4, HeaderValue),
        (head, "X: a\n", 4, BareNewline),
        (head, "X: a\rb", 5, BareNewline),
        (head, "X: a\r\n\n", 6, BareNewline),
        (head, "X: a\r\n\rG", 7, BareNewline),
        (head, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 45, BothFramings),
        (head, "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 45, BothFramings),
        (head, "Content-Length: 5\r\nContent-Length: 5\r\n", 36, RepeatedFraming),
        (head, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 54, RepeatedFraming),
        (head, "Content-Length: 5, 5\r\n", 20, ContentLength),
        (head, "Content-Length: +5\r\n", 18, ContentLength),
        (head, "Content-Length: 0x5\r\n", 19, ContentLength),
        (head, "Content-Length: \r\n", 16, ContentLength),
        (head, "Content-Length: 18446744073709551616\r\n", 36, ContentLength),
        (head, "Content-Length: 00000000000000000000000000000000005\r\n", 51, ContentLength),
        (head, "Transfer-Encoding: gzip, chunked\r\n", 32, TransferEncoding),
        (head, "Transfer-Encoding: identity\r\n", 27, TransferEncoding),
        (head, "Transfer-Encoding: \x0bchunked\r\n", 19, HeaderValue),
        (chunked, "5;a=b\r\n", 1, ChunkSize),
        (chunked, "5 \r\n", 1, ChunkSize),
        (chunked, "\r\n", 0, ChunkSize),
        (chunked, "-1\r\n", 0, ChunkSize),
        (chunked, "0x5\r\n", 1, ChunkSize),
        (chunked, "00000000000000005\r\n", 16, ChunkSize),
        (chunked, "5\nhello", 1, BareNewline),
        (chunked, "5\r\nhello!\r\n", 8, ChunkEnd),
        (chunked, "5\r\nhello\n", 8, ChunkEnd),
        (chunked, "0\r\nContent-Length: 5\r\n\r\n", 17, ForbiddenTrailer),
        (chunked, "0\r\nHost: b\r\n\r\n", 7, ForbiddenTrailer),
    ] {
        let text = format!("{prefix}{rest}");
        assert_eq!(check(text.as_bytes()), Err((prefix.len() + good, violation)), "{text:?}");
    }
}

#[test]
fn a_body_is_skipped_whatever_is_in_it() {
    let mut framing = Framing::new();
    assert_eq!(framing.check(b"POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n"), Ok(()));
    for _ in 0..1000 {
        assert_eq!(framing.check(b"\r\n\n\x00 HTTP/1.1 Content-Length: x"), Ok(()));
    }
}

/// Pieces of requests, right and wrong, in any order.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(&b"GET / HTTP/1.1\r\n"[..]),
        Just(&b"Host: a\r\n"[..]),
        Just(&b"Content-Length: 3\r\n"[..]),
        Just(&b"Transfer-Encoding: chunked\r\n"[..]),
        Just(&b"\r\n"[..]),
        Just(&b"abc"[..]),
        Just(&b"3\r\nabc\r\n"[..]),
        Just(&b"0\r\n"[..]),
        Just(&b"\n"[..]),
        Just(&b" x"[..]),
        Just(&b"\x00"[..]),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn how_the_bytes_are_cut_does_not_matter(bytes in pieces(), cuts in prop::collection::vec(1_usize..7, 1..40)) {
        let whole = check(&bytes);
        let (mut framing, mut at, mut cut) = (Framing::new(), 0, cuts.iter().cycle());
        let mut verdict = Ok(());
        while at < bytes.len() && verdict.is_ok() {
            let end = (at + cut.next().unwrap()).min(bytes.len());
            verdict = framing.check(&bytes[at..end]).map_err(|(offset, violation)| (at + offset, violation));
            at = end;
        }
        prop_assert_eq!(verdict, whole);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err((offset, _)) = check(&bytes) {
            prop_assert!(offset < bytes.len());
        }
    }
}
