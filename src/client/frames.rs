//! Pieces of an answer out of its bytes, however they were cut on their way: server-sent events, or lines.
//!
//! What is longer than any piece of a completion, or no text, is refused before it is held.
//!
//! # Source
//! The `text/event-stream` format of the HTML standard. Only `data` counts: what kind of an event it is stands in it too.

/// Longest line, and longest event: far above any piece of a completion.
const FRAME_BYTES_MAX: usize = 256 << 10;

/// How an answer comes in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events.
    Events,
    /// A line each.
    Lines,
}

/// Why bytes are no pieces of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A piece grew beyond any sense.
    #[error("a piece has more than {FRAME_BYTES_MAX} bytes")]
    TooLong,
    /// It is no text.
    #[error("it is not UTF-8")]
    NotUtf8,
}

/// Collects bytes and gives whole pieces.
#[derive(Debug)]
pub struct Frames {
    framing: Framing,
    bytes: Vec<u8>,
    /// Where the line begins that is not yet whole, and up to where its end was looked for.
    line_start: usize,
    searched: usize,
    /// The data of the event under way; `None` where it has none.
    data: Option<Vec<u8>>,
}

impl Frames {
    /// Begins with nothing.
    pub fn new(framing: Framing) -> Self {
        Self { framing, bytes: Vec::new(), line_start: 0, searched: 0, data: None }
    }

    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.line_start);
        self.searched -= self.line_start;
        self.line_start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next whole piece.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn next_frame(&mut self) -> Result<Option<String>, FrameError> {
        loop {
            let unseen = &self.bytes[self.searched..];
            let Some(len) = unseen.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.bytes.len();
                let held = self.bytes.len() - self.line_start;
                self.check(held)?;
                return Ok(None);
            };
            let line = self.line_start..self.searched + len;
            self.line_start = line.end + 1;
            self.searched = self.line_start;
            self.check(line.len())?;
            if let Some(piece) = self.take(line)? {
                return Ok(Some(piece));
            }
        }
    }

    /// Ends the bytes, and returns what they left without an end.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn finish(&mut self) -> Result<Option<String>, FrameError> {
        let rest = self.line_start..self.bytes.len();
        self.line_start = rest.end;
        self.searched = rest.end;
        match self.take(rest)? {
            Some(piece) => Ok(Some(piece)),
            None => self.data.take().map(text).transpose(),
        }
    }

    /// Takes a line; returns the piece that it ends.
    fn take(&mut self, line: std::ops::Range<usize>) -> Result<Option<String>, FrameError> {
        let line = &self.bytes[line];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.framing {
            Framing::Lines if line.iter().all(u8::is_ascii_whitespace) => Ok(None),
            Framing::Lines => text(line.to_vec()).map(Some),
            Framing::Events if line.is_empty() => self.data.take().map(text).transpose(),
            Framing::Events => {
                let Some(value) = line.strip_prefix(b"data:") else { return Ok(None) };
                let value = value.strip_prefix(b" ").unwrap_or(value);
                match &mut self.data {
                    None => self.data = Some(value.to_vec()),
                    Some(data) => {
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                }
                self.check(0).map(|()| None)
            }
        }
    }

    fn check(&self, num_bytes: usize) -> Result<(), FrameError> {
        let held = num_bytes + self.data.as_ref().map_or(0, Vec::len);
        if held > FRAME_BYTES_MAX { Err(FrameError::TooLong) } else { Ok(()) }
    }
}

fn text(bytes: Vec<u8>) -> Result<String, FrameError> {
    String::from_utf8(bytes).map_err(|_| FrameError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = ": hello\n\ndata: {\"a\":1}\n\nid: 7\nevent: x\ndata:b\r\ndata: c\r\n\r\ndata: é\n\ndata: cut";
    const LINES: &str = "{\"a\":1}\n\n \r\nb\r\né\ncut";

    fn pieces(framing: Framing, text: &[u8], chunk_len: usize) -> Result<Vec<String>, FrameError> {
        let mut frames = Frames::new(framing);
        let mut pieces = Vec::new();
        for chunk in text.chunks(chunk_len) {
            frames.push(chunk);
            while let Some(piece) = frames.next_frame()? {
                pieces.push(piece);
            }
        }
        pieces.extend(frames.finish()?);
        Ok(pieces)
    }

    #[test]
    fn pieces_do_not_depend_on_how_bytes_were_cut() {
        for chunk_len in [1, 2, 3, 7, 1000] {
            let events = pieces(Framing::Events, EVENTS.as_bytes(), chunk_len).unwrap();
            assert_eq!(events, ["{\"a\":1}", "b\nc", "é", "cut"], "{chunk_len}");
            let lines = pieces(Framing::Lines, LINES.as_bytes(), chunk_len).unwrap();
            assert_eq!(lines, ["{\"a\":1}", "b", "é", "cut"], "{chunk_len}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused_whole_or_in_parts() {
        let long = vec![b'x'; FRAME_BYTES_MAX + 1];
        let many = "data: xxxxxxxxxxxxxxx\n".repeat(FRAME_BYTES_MAX / 15);
        for (framing, bytes) in [
            (Framing::Events, long.as_slice()),
            (Framing::Lines, &long),
            (Framing::Events, many.as_bytes()),
            (Framing::Lines, &[&long[..], b"\n"].concat()),
        ] {
            assert_eq!(pieces(framing, bytes, 4096), Err(FrameError::TooLong), "{framing:?}");
        }
        let fits = &long[..FRAME_BYTES_MAX];
        assert_eq!(pieces(Framing::Lines, fits, 4096).unwrap()[0].len(), FRAME_BYTES_MAX);
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for (framing, bytes) in
            [(Framing::Events, &b"data: \xff\n\n"[..]), (Framing::Lines, b"\xff\n")]
        {
            assert_eq!(pieces(framing, bytes, 3), Err(FrameError::NotUtf8));
        }
    }
}
