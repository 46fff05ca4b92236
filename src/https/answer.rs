//! The answer to a request, read with bounds: its head, and its body, however that is delimited.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::time::Instant;

use flate2::bufread::MultiGzDecoder;
use httparse::Status;

use super::body::Body;
use super::error::{Phase, Why};

/// The longest head, in bytes, and the longest line between chunks.
pub(super) const LONGEST_HEAD: usize = 16 << 10;
/// The most headers in one.
const HEADERS: usize = 128;

/// The status and the headers of an answer.
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
}

impl Head {
    /// Reads up to the empty line, past interim answers (100 Continue).
    pub(super) fn read(source: &mut impl BufRead) -> Result<Self, Why> {
        let mut left = LONGEST_HEAD;
        loop {
            let text = head_text(source, left)?;
            left -= text.len();
            let head = Self::parse(&text)?;
            if !(100..200).contains(&head.status) {
                return Ok(head);
            }
        }
    }

    fn parse(text: &[u8]) -> Result<Self, Why> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut parsed = httparse::Response::new(&mut headers);
        let status = match parsed.parse(text) {
            Ok(Status::Complete(_)) => parsed.code,
            Err(httparse::Error::TooManyHeaders) => return Err(Why::HeadTooLong(LONGEST_HEAD)),
            Ok(Status::Partial) | Err(_) => None,
        };
        let status = status.ok_or(Why::NotHttp("its head makes no sense"))?;
        let headers = parsed.headers.iter().map(|header| {
            (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned())
        });
        Ok(Self { status, headers: headers.collect() })
    }

    /// The values of a header, in whatever case it was sent.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of_it = move |(found, _): &&(String, String)| found.eq_ignore_ascii_case(name);
        self.headers.iter().filter(of_it).map(|(_, value)| value.as_str())
    }

    /// How the body is delimited (RFC 9112, 6.3).
    fn framing(&self) -> Result<Framing, Why> {
        if matches!(self.status, 204 | 304) {
            return Ok(Framing::Length(0));
        }
        let mut encodings = self.all("transfer-encoding");
        if let Some(encoding) = encodings.next() {
            let chunked = encoding.eq_ignore_ascii_case("chunked") && encodings.next().is_none();
            let unknown = Why::NotHttp("its transfer encoding is not known");
            return if chunked {
                Ok(Framing::Chunks { left: 0, over: false })
            } else {
                Err(unknown)
            };
        }
        let mut lengths = self.all("content-length");
        let Some(length) = lengths.next() else { return Ok(Framing::UntilClosed) };
        let is_number = length.bytes().all(|byte| byte.is_ascii_digit());
        match length.parse() {
            Ok(number) if is_number && lengths.all(|other| other == length) => {
                Ok(Framing::Length(number))
            }
            _ => Err(Why::NotHttp("its content length makes no sense")),
        }
    }

    fn is_gzip(&self) -> Result<bool, Why> {
        let mut encodings = self.all("content-encoding").filter(|name| *name != "identity");
        match (encodings.next(), encodings.next()) {
            (None, _) => Ok(false),
            (Some("gzip" | "x-gzip"), None) => Ok(true),
            _ => Err(Why::NotHttp("its content encoding is not known")),
        }
    }
}

/// The lines up to the empty one.
fn head_text(source: &mut impl BufRead, longest: usize) -> Result<Vec<u8>, Why> {
    let mut text = Vec::new();
    loop {
        let begin = text.len();
        read_line(source, &mut text, longest - begin)
            .map_err(|error| Why::of(&error, Phase::Head))?;
        if !b"HTTP/1.".starts_with(&text[..text.len().min(7)]) {
            return Err(Why::NotHttp("its head does not begin with HTTP/1."));
        }
        match text.get(begin..) {
            Some(b"\n" | b"\r\n") => return Ok(text),
            Some([.., b'\n']) => {}
            _ if text.len() == longest => return Err(Why::HeadTooLong(LONGEST_HEAD)),
            _ => return Err(Why::Closed(Phase::Head)),
        }
    }
}

fn read_line(source: &mut impl BufRead, line: &mut Vec<u8>, longest: usize) -> io::Result<usize> {
    source.take(longest as u64).read_until(b'\n', line)
}

enum Framing {
    Length(u64),
    Chunks { left: u64, over: bool },
    UntilClosed,
}

/// A body without what delimits it. Its end is one that the server meant: everything else is an error.
struct Framed<R> {
    source: R,
    framing: Framing,
    /// How much more of it is taken.
    bound: u64,
    longest: usize,
}

impl<R: BufRead> Read for Framed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunks { left: 0, over: false } = self.framing {
            let size = chunk_size(&mut self.source)?;
            self.framing = Framing::Chunks { left: size, over: size == 0 };
        }
        let left = match self.framing {
            Framing::Length(left) | Framing::Chunks { left, .. } => left,
            Framing::UntilClosed => u64::MAX,
        };
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.source.read(&mut buffer[..wanted])?;
        let too_long = || Why::BodyTooLong(self.longest);
        self.bound = self.bound.checked_sub(read as u64).ok_or_else(too_long)?;
        match &mut self.framing {
            Framing::UntilClosed => {}
            _ if read == 0 => return Err(ErrorKind::UnexpectedEof.into()),
            Framing::Length(left) => *left -= read as u64,
            Framing::Chunks { left, .. } => {
                *left -= read as u64;
                if *left == 0 {
                    end_of_chunk(&mut self.source)?;
                }
            }
        }
        Ok(read)
    }
}

fn chunk_size(source: &mut impl BufRead) -> io::Result<u64> {
    let mut line = Vec::new();
    read_line(source, &mut line, LONGEST_HEAD)?;
    if !line.ends_with(b"\n") && line.len() < LONGEST_HEAD {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    // httparse takes a line without a digit for a zero, which is the end.
    let has_digit = line.first().is_some_and(u8::is_ascii_hexdigit);
    match httparse::parse_chunk_size(&line) {
        _ if !has_digit => Err(Why::NotHttp("the size of a chunk makes no sense").into()),
        Ok(Status::Complete((_, 0))) => end_of_chunks(source).map(|()| 0),
        Ok(Status::Complete((_, size))) => Ok(size),
        _ => Err(Why::NotHttp("the size of a chunk makes no sense").into()),
    }
}

fn end_of_chunk(source: &mut impl BufRead) -> io::Result<()> {
    let mut line = Vec::new();
    read_line(source, &mut line, 2)?;
    match line.as_slice() {
        b"\r\n" | b"\n" => Ok(()),
        b"" | b"\r" => Err(ErrorKind::UnexpectedEof.into()),
        _ => Err(Why::NotHttp("a chunk is longer than its size").into()),
    }
}

/// After the last chunk there may be headers, of no interest.
fn end_of_chunks(source: &mut impl BufRead) -> io::Result<()> {
    let mut left = LONGEST_HEAD;
    loop {
        let mut line = Vec::new();
        left -= read_line(source, &mut line, left)?;
        match line.as_slice() {
            b"\r\n" | b"\n" => return Ok(()),
            [.., b'\n'] => {}
            _ if left == 0 => return Err(Why::HeadTooLong(LONGEST_HEAD).into()),
            _ => return Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// So much is set aside for a body because its server says that it is as long, in bytes.
const MOST_ROOM: u64 = 1 << 20;

/// How far a body is read.
pub(super) struct Bounds {
    /// The most bytes, also once it is inflated.
    pub(super) longest: usize,
    /// The bytes after which the rest is of no interest.
    pub(super) until: Option<&'static [u8]>,
    pub(super) deadline: Instant,
}

/// Reads a body, and tells whether it was read to its end.
pub(super) fn read_body(
    head: &Head,
    source: &mut impl BufRead,
    bounds: &Bounds,
) -> Result<(Body, bool), Why> {
    let (framing, is_gzip) = (head.framing()?, head.is_gzip()?);
    let longest = bounds.longest;
    match framing {
        Framing::Length(length) if length > longest as u64 && bounds.until.is_none() => {
            return Err(Why::BodyTooLong(longest));
        }
        _ => {}
    }
    // Room for all of it at once: many bodies come at a time, and one that grows holds twice as much.
    let room = match framing {
        Framing::Length(length) if bounds.until.is_none() => length.min(MOST_ROOM),
        _ => 0,
    };
    let framed = Framed { source, framing, bound: longest as u64, longest };
    let read = if is_gzip {
        collect(MultiGzDecoder::new(BufReader::new(framed)), 0, bounds)
    } else {
        collect(framed, usize::try_from(room).unwrap_or(0), bounds)
    };
    read.map_err(|error| Why::of(&error, Phase::Body))
}

fn collect(mut source: impl Read, room: usize, bounds: &Bounds) -> io::Result<(Body, bool)> {
    let mut body = Body::with_room(room)?;
    let mut chunk = [0; 16 << 10];
    loop {
        let read = match source.read(&mut chunk) {
            Ok(0) => return Ok((body, true)),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let before = body.len();
        body.extend(&chunk[..read])?;
        if let Some(end) = bounds.until.and_then(|marker| end_of(marker, &body, before)) {
            body.truncate(end);
            return Ok((body, false));
        }
        if body.len() > bounds.longest {
            return Err(Why::BodyTooLong(bounds.longest).into());
        }
        // The socket looks at its deadline only when more is wanted of it than it has given.
        if Instant::now() >= bounds.deadline {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

/// Where a marker ends that is not in what was there before.
fn end_of(marker: &[u8], body: &[u8], before: usize) -> Option<usize> {
    let begin = before.saturating_sub(marker.len().saturating_sub(1));
    let found = body.get(begin..)?.windows(marker.len().max(1)).position(|part| part == marker)?;
    Some(begin + found + marker.len())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    const OK: &str = "HTTP/1.1 200 OK\r\n";

    /// Gives a few bytes at a time.
    struct Drips<'a>(&'a [u8], usize);

    impl Read for Drips<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(self.1);
            self.0.read(&mut buffer[..most])
        }
    }

    fn bounds(longest: usize, until: Option<&'static [u8]>) -> Bounds {
        Bounds { longest, until, deadline: Instant::now() + Duration::from_secs(60) }
    }

    fn read_with(
        answer: &[u8],
        at_a_time: usize,
        bounds: &Bounds,
    ) -> Result<(u16, Vec<u8>, bool), Why> {
        let mut source = BufReader::new(Drips(answer, at_a_time));
        let head = Head::read(&mut source)?;
        let (body, complete) = read_body(&head, &mut source, bounds)?;
        Ok((head.status, body.to_vec(), complete))
    }

    fn read(answer: impl AsRef<[u8]>) -> Result<(u16, Vec<u8>, bool), Why> {
        read_with(answer.as_ref(), usize::MAX, &bounds(1000, None))
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_body_ends_where_the_server_says() {
        for (answer, status, body) in [
            (format!("{OK}Content-Length: 3\r\n\r\nabcde"), 200, "abc"),
            (format!("{OK}content-length:3\r\nContent-Length: 3\r\n\r\nabc"), 200, "abc"),
            (
                format!(
                    "{OK}Transfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n00a;x=y\r\n0123456789\r\n0\r\nA: b\r\n\r\nrest"
                ),
                200,
                "ab0123456789",
            ),
            ("HTTP/1.0 200 OK\r\n\r\nabc".to_owned(), 200, "abc"),
            ("HTTP/1.1 200\n\nabc".to_owned(), 200, "abc"),
            ("HTTP/1.1 204 No Content\r\n\r\nabc".to_owned(), 204, ""),
            (
                format!(
                    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 P\r\nA: b\r\n\r\n{OK}Content-Length: 1\r\n\r\na"
                ),
                200,
                "a",
            ),
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(), 404, ""),
        ] {
            for at_a_time in [1, 2, 7, usize::MAX] {
                let read = read_with(answer.as_bytes(), at_a_time, &bounds(1000, None));
                assert_eq!(read, Ok((status, body.as_bytes().to_vec(), true)), "{answer}");
            }
        }
    }

    #[test]
    fn what_is_cut_short_is_no_answer() {
        for (whole, body) in [
            (format!("{OK}Content-Length: 3\r\n\r\nabc"), 38),
            (format!("{OK}Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nA: b\r\n\r\n"), 47),
        ] {
            assert!(read(&whole).is_ok());
            for end in 0..whole.len() {
                let why = if end < body { Why::Closed(Phase::Head) } else { Why::CutShort };
                assert_eq!(read(&whole[..end]), Err(why), "{:?}", &whole[..end]);
            }
        }
        let zipped = gzip(b"hello");
        for end in 0..zipped.len() {
            let mut answer = format!("{OK}Content-Encoding: gzip\r\n\r\n").into_bytes();
            answer.extend_from_slice(&zipped[..end]);
            assert_eq!(read(answer), Err(Why::CutShort), "{end}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        let not_http = |answer: &str| match read(answer) {
            Err(Why::NotHttp(reason)) => reason,
            other => panic!("{answer}: {other:?}"),
        };
        for answer in ["SSH-2.0-OpenSSH\r\n", "<html>", "\r\n\r\n", "HTTP/2 200\r\n\r\n", "\0"] {
            assert!(not_http(answer).contains("does not begin"));
        }
        for answer in ["HTTP/1.1 2x0 OK\r\n\r\n", "HTTP/1.1 200 OK\r\na b\r\n\r\n", "HTTP/1.1 \n\n"]
        {
            assert!(not_http(answer).contains("its head"));
        }
        for length in ["-1", "+1", "1, 1", "99999999999999999999999", "x", ""] {
            let answer = format!("{OK}Content-Length: {length}\r\n\r\na");
            assert!(not_http(&answer).contains("content length"));
        }
        let two = format!("{OK}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab");
        assert!(not_http(&two).contains("content length"));
        for header in ["gzip", "gzip, chunked", "chunked\r\nTransfer-Encoding: chunked"] {
            let answer = format!("{OK}Transfer-Encoding: {header}\r\n\r\na");
            assert!(not_http(&answer).contains("transfer encoding"));
        }
        let chunked = format!("{OK}Transfer-Encoding: chunked\r\n\r\n");
        for body in ["x\r\n", "-1\r\n", "\r\n", "11111111111111111\r\n"] {
            assert!(not_http(&format!("{chunked}{body}")).contains("size of a chunk"));
        }
        assert!(not_http(&format!("{chunked}1\r\nabc")).contains("longer than its size"));
        for encoding in ["br", "gzip, gzip", "gzip\r\nContent-Encoding: gzip"] {
            let answer = format!("{OK}Content-Encoding: {encoding}\r\n\r\na");
            assert!(not_http(&answer).contains("content encoding"));
        }
    }

    #[test]
    fn nothing_grows_without_bound() {
        let endless = "a".repeat(20_000);
        let many = "A: b\r\n".repeat(200);
        let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
        let trailer = format!("{OK}Transfer-Encoding: chunked\r\n\r\n0\r\nA: {endless}");
        for answer in [
            format!("{OK}A: {endless}"),
            format!("{OK}{}", "Abc: def\r\n".repeat(2000)),
            format!("HTTP/1.1 200 {endless}"),
            format!("{OK}{many}\r\n"),
            interim,
            trailer,
        ] {
            assert_eq!(read(&answer), Err(Why::HeadTooLong(LONGEST_HEAD)), "{}", &answer[..40]);
        }
        let body = "a".repeat(1001);
        for answer in [
            format!("{OK}Content-Length: 1001\r\n\r\n{body}"),
            format!("{OK}Content-Length: 1001\r\n\r\n"),
            format!("{OK}\r\n{body}"),
            format!("{OK}Transfer-Encoding: chunked\r\n\r\n3e9\r\n{body}\r\n0\r\n\r\n"),
            format!("{OK}Transfer-Encoding: chunked\r\n\r\n{}", "1\r\na\r\n".repeat(1001)),
        ] {
            assert_eq!(read(&answer), Err(Why::BodyTooLong(1000)), "{}", &answer[..50]);
        }
        assert!(read(format!("{OK}\r\n{}", &body[1..])).is_ok());
    }

    #[test]
    fn what_is_inflated_is_bounded_too() {
        let answer = |data: &[u8]| {
            let mut answer = format!("{OK}Content-Encoding: gzip\r\n\r\n").into_bytes();
            answer.extend_from_slice(data);
            answer
        };
        let two: Vec<u8> = [gzip(b"hello "), gzip(b"world")].concat();
        assert_eq!(read(answer(&two)), Ok((200, b"hello world".to_vec(), true)));
        let bomb = gzip(&vec![0; 1 << 20]);
        let bound = bounds(2000, None);
        assert!(bomb.len() < 2000);
        assert_eq!(read_with(&answer(&bomb), 100, &bound), Err(Why::BodyTooLong(2000)));
        assert_eq!(read(answer(b"no gzip at all")), Err(Why::Damaged));
        // Neither is there an end to what inflates to nothing.
        let nothing = gzip(b"").repeat(1000);
        assert_eq!(read(answer(&nothing)), Err(Why::BodyTooLong(1000)));
    }

    #[test]
    fn no_more_is_read_than_is_of_interest() {
        let until = bounds(20, Some(b"<rra>"));
        let read = |body: &str| {
            let answer = format!("{OK}Content-Length: 1000\r\n\r\n{body}");
            let reads: Vec<_> = [1, 3, usize::MAX]
                .into_iter()
                .map(|at_a_time| read_with(answer.as_bytes(), at_a_time, &until))
                .collect();
            assert!(reads.windows(2).all(|two| two[0] == two[1]), "{reads:?}");
            reads.into_iter().next().unwrap()
        };
        assert_eq!(read("<ds></ds><rra>1<rra>"), Ok((200, b"<ds></ds><rra>".to_vec(), false)));
        assert_eq!(read("<r<rra><<rra>"), Ok((200, b"<r<rra>".to_vec(), false)));
        assert_eq!(read("<ds>"), Err(Why::CutShort));
        assert_eq!(read("<ds></ds><ds></ds><ds></ds>"), Err(Why::BodyTooLong(20)));
        let without = format!("{OK}Content-Length: 3\r\n\r\nabc");
        assert_eq!(read_with(without.as_bytes(), 1, &until), Ok((200, b"abc".to_vec(), true)));
    }

    proptest! {
        #[test]
        fn nothing_that_comes_is_too_much_for_it(
            head in "(HTTP/1\\.[01] [0-9]{3} OK\r\n)?([A-Z]{1,3}: [a-z]{0,3}\r\n){0,3}(Transfer-Encoding: chunked\r\n)?(Content-Encoding: gzip\r\n)?\r\n",
            body: Vec<u8>, at_a_time in 1..50_usize,
        ) {
            let answer = [head.as_bytes(), &body].concat();
            let bounds = bounds(1 << 20, None);
            let slowly = read_with(&answer, at_a_time, &bounds);
            prop_assert_eq!(slowly, read_with(&answer, usize::MAX, &bounds));
        }

        #[test]
        fn chunks_come_together_again(chunks: Vec<Vec<u8>>, at_a_time in 1..50_usize) {
            let mut answer = format!("{OK}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
            for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                answer.extend(format!("{:x}\r\n", chunk.len()).bytes());
                answer.extend(chunk);
                answer.extend(b"\r\n");
            }
            answer.extend(b"0\r\n\r\n");
            let read = read_with(&answer, at_a_time, &bounds(1 << 20, None));
            prop_assert_eq!(read, Ok((200, chunks.concat(), true)));
        }
    }
}
