//! Server-sent events out of the bytes of an answer, however they were cut on their way.
//!
//! # Source
//! The `text/event-stream` format of the HTML standard. Only `data` counts here; ids, names and comments are passed over.

/// Longest event: far above any piece of a completion.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// An event that grew beyond any sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event has more than {EVENT_BYTES_MAX} bytes")]
pub struct EventTooLong;

/// Collects bytes and gives whole events.
#[derive(Debug, Default)]
pub struct EventParser {
    bytes: Vec<u8>,
    /// Where the line begins that is not yet whole.
    line_start: usize,
    /// The data of the event under way; `None` where it has none.
    data: Option<Vec<u8>>,
}

impl EventParser {
    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.line_start);
        self.line_start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the data of the next whole event.
    ///
    /// # Errors
    /// [`EventTooLong`].
    pub fn next_event(&mut self) -> Result<Option<String>, EventTooLong> {
        loop {
            let rest = &self.bytes[self.line_start..];
            let Some(len) = rest.iter().position(|byte| *byte == b'\n') else {
                let held = rest.len() + self.data.as_ref().map_or(0, Vec::len);
                return if held > EVENT_BYTES_MAX { Err(EventTooLong) } else { Ok(None) };
            };
            let line = rest[..len].strip_suffix(b"\r").unwrap_or(&rest[..len]);
            if line.is_empty() {
                self.line_start += len + 1;
                let Some(data) = self.data.take() else { continue };
                return Ok(Some(String::from_utf8_lossy(&data).into_owned()));
            }
            if let Some(value) = line.strip_prefix(b"data:") {
                let value = value.strip_prefix(b" ").unwrap_or(value);
                match &mut self.data {
                    None => self.data = Some(value.to_vec()),
                    Some(data) => {
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                }
            }
            self.line_start += len + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = ": hello\n\ndata: {\"a\":1}\n\nid: 7\nevent: x\ndata:b\r\ndata: c\r\n\r\ndata: é\n\ndata: cut";

    fn events(chunk_len: usize) -> Vec<String> {
        let mut parser = EventParser::default();
        let mut events = Vec::new();
        for chunk in TEXT.as_bytes().chunks(chunk_len) {
            parser.push(chunk);
            while let Some(event) = parser.next_event().unwrap() {
                events.push(event);
            }
        }
        events
    }

    #[test]
    fn events_do_not_depend_on_how_bytes_were_cut() {
        for chunk_len in [1, 2, 3, 7, TEXT.len()] {
            assert_eq!(events(chunk_len), ["{\"a\":1}", "b\nc", "é"], "{chunk_len}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = EventParser::default();
        parser.push(b"data: ");
        parser.push(&vec![b'x'; EVENT_BYTES_MAX + 1]);
        assert_eq!(parser.next_event(), Err(EventTooLong));
        let mut parser = EventParser::default();
        for _ in 0..3 {
            parser.push(b"data: ");
            parser.push(&vec![b'x'; EVENT_BYTES_MAX / 2]);
            parser.push(b"\n");
            let _ = parser.next_event();
        }
        assert_eq!(parser.next_event(), Err(EventTooLong));
    }
}
