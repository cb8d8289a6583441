//! What the tasks of a service wrote, as an engine sends it: frames with a header of eight bytes (stream, three zeros, length),
//! or plain lines where the tasks have a terminal. Both are asked for with the time and the task in front of each line. See
//! [Attach, stream format](https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach).

/// The longest line that is taken, in bytes. Engines cut them after 16 KiB.
pub const LINE_MAX_BYTES: usize = 1 << 20;

const HEADER_BYTES: usize = 8;

/// A line that a task wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Where it wrote it.
    pub stream: LogStream,
    /// When, RFC 3339; empty if the engine does not say.
    pub time: String,
    /// The ID of the task, if the engine says.
    pub task: Option<String>,
    /// The ID of its node, if the engine says.
    pub node: Option<String>,
    /// What it wrote, without the end of the line; what is no UTF-8 is replaced.
    pub text: String,
    /// Whether the line ends here; the engine cuts long ones.
    pub ends: bool,
}

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
    /// The engine itself speaks, of what it could not read.
    Engine,
}

/// What an engine sends is no log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A line is too long.
    #[error("a line of the log has {bytes} bytes, {LINE_MAX_BYTES} are taken at most")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A frame does not begin as one.
    #[error("the engine's log has a frame that does not begin as one: does its task have a terminal?")]
    NoFrame,
}

/// Cuts what an engine sends into lines.
#[derive(Debug, Clone)]
pub struct LogReader {
    has_terminal: bool,
    buffer: Vec<u8>,
}

impl LogReader {
    /// For a service whose tasks have a terminal, or none.
    #[must_use]
    pub fn new(has_terminal: bool) -> Self {
        Self { has_terminal, buffer: Vec::new() }
    }

    /// Takes what came. Returns the lines that are whole now.
    ///
    /// # Errors
    /// When it is no log. Nothing that comes after that can be read.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Vec<LogLine>, LogError> {
        self.buffer.extend_from_slice(bytes);
        let mut lines = Vec::new();
        let mut rest = self.buffer.as_slice();
        while let Some((stream, line, after)) = cut(rest, self.has_terminal)? {
            lines.push(parse(stream, line));
            rest = after;
        }
        self.buffer = rest.to_vec();
        Ok(lines)
    }
}

/// The first line, and what comes after it; nothing if it is not whole.
type Cut<'a> = Option<(LogStream, &'a [u8], &'a [u8])>;

fn cut(bytes: &[u8], has_terminal: bool) -> Result<Cut<'_>, LogError> {
    let too_long = |bytes| Err(LogError::TooLong { bytes });
    if has_terminal {
        return match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => Ok(Some((LogStream::Stdout, &bytes[..=end], &bytes[end + 1..]))),
            None if bytes.len() > LINE_MAX_BYTES => too_long(bytes.len()),
            None => Ok(None),
        };
    }
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let stream = match header {
        [1, 0, 0, 0, ..] => LogStream::Stdout,
        [2, 0, 0, 0, ..] => LogStream::Stderr,
        [3, 0, 0, 0, ..] => LogStream::Engine,
        _ => return Err(LogError::NoFrame),
    };
    let [.., a, b, c, d] = *header;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > LINE_MAX_BYTES {
        return too_long(length);
    }
    Ok(rest.split_at_checked(length).map(|(line, after)| (stream, line, after)))
}

/// Reads `TIME KEY=VALUE,KEY=VALUE TEXT`. What the engine says by itself is text alone.
fn parse(stream: LogStream, line: &[u8]) -> LogLine {
    let line = String::from_utf8_lossy(line);
    let ends = line.ends_with('\n');
    let line = line.trim_end_matches(['\n', '\r']);
    let said = line.split_once(' ').filter(|_| stream != LogStream::Engine);
    let said = said.and_then(|(time, rest)| Some((time, rest.split_once(' ').or(Some((rest, "")))?)));
    let Some((time, (details, text))) = said else {
        return LogLine {
            stream,
            time: String::new(),
            task: None,
            node: None,
            text: line.to_owned(),
            ends: true,
        };
    };
    let detail = |key: &str| {
        let mut pairs = details.split(',').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
    };
    LogLine {
        stream,
        time: time.to_owned(),
        task: detail("com.docker.swarm.task.id"),
        node: detail("com.docker.swarm.node.id"),
        text: text.to_owned(),
        ends,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, line: &str) -> Vec<u8> {
        let mut frame = vec![stream, 0, 0, 0];
        frame.extend((line.len() as u32).to_be_bytes());
        frame.extend(line.as_bytes());
        frame
    }

    const LINE: &str =
        "2026-01-01T00:00:00Z com.docker.swarm.node.id=n,com.docker.swarm.task.id=t hello, world\n";

    #[test]
    fn frames_are_read_however_they_are_cut() {
        let bytes = [frame(1, LINE), frame(2, LINE.trim_end()), frame(3, "Error grabbing logs")].concat();
        for size in 1..bytes.len() {
            let mut reader = LogReader::new(false);
            let lines: Vec<_> = bytes.chunks(size).flat_map(|part| reader.read(part).unwrap()).collect();
            let streams: Vec<_> = lines.iter().map(|line| (line.stream, line.ends)).collect();
            let wanted = [(LogStream::Stdout, true), (LogStream::Stderr, false), (LogStream::Engine, true)];
            assert_eq!(streams, wanted);
            assert_eq!((lines[0].task.as_deref(), lines[0].node.as_deref()), (Some("t"), Some("n")));
            assert_eq!(lines[0].text, "hello, world");
            assert_eq!(lines[2].text, "Error grabbing logs");
        }
    }

    #[test]
    fn a_terminal_has_lines_and_no_frames() {
        let mut reader = LogReader::new(true);
        assert_eq!(reader.read(&LINE.as_bytes()[..40]).unwrap(), []);
        let lines = reader.read(&LINE.as_bytes()[40..]).unwrap();
        assert_eq!((lines.len(), lines[0].text.as_str()), (1, "hello, world"));
    }

    #[test]
    fn what_is_no_log_or_too_much_of_one_is_refused() {
        assert_eq!(LogReader::new(false).read(b"plain text"), Err(LogError::NoFrame));
        let huge = [1, 0, 0, 0, 255, 255, 255, 255];
        assert!(matches!(LogReader::new(false).read(&huge), Err(LogError::TooLong { .. })));
        let endless = vec![b'a'; LINE_MAX_BYTES + 1];
        assert!(matches!(LogReader::new(true).read(&endless), Err(LogError::TooLong { .. })));
    }
}
