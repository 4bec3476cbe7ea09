//! What a run says, and on which stream. Owns the layout that callers match on; refuses to know what is being done.

use std::fmt::Display;
use std::io::Write;

use crate::environment::Streams;
use crate::http::Log;
use crate::options::Options;

/// The voice of a run.
pub(super) struct Report<'a, 's> {
    pub(super) streams: &'a mut Streams<'s>,
    to_stderr: bool,
    progress: bool,
    verbose: bool,
    debug: bool,
    quiet: bool,
    secrets: bool,
    /// Whether a step was announced whose outcome is still missing on its line.
    open_step: bool,
}

impl<'a, 's> Report<'a, 's> {
    pub(super) fn new(streams: &'a mut Streams<'s>, options: &Options, to_stderr: bool) -> Self {
        Self {
            streams,
            to_stderr,
            progress: !options.quiet && !options.verbose,
            verbose: options.verbose,
            debug: options.debug,
            quiet: options.quiet,
            secrets: options.show_secrets,
            open_step: false,
        }
    }

    /// A step that takes time: `text ...` in progress mode.
    pub(super) fn step(&mut self, text: impl Display) {
        self.close(" failed");
        if self.progress {
            self.write(&format!("{text} ..."));
            self.open_step = true;
        } else if self.verbose {
            self.write(&format!("{text}\n"));
        }
    }

    /// How the step ended: `succeeded`, `failed` or `done`, on its line.
    pub(super) fn outcome(&mut self, word: &str) {
        self.close(&format!(" {word}"));
    }

    /// A line in both modes that say anything.
    pub(super) fn line(&mut self, text: impl Display) {
        self.close(" done");
        if self.progress || self.verbose {
            self.write(&format!("{text}\n"));
        }
    }

    /// A line below a step, in verbose mode.
    pub(super) fn detail(&mut self, text: impl Display) {
        if self.verbose {
            self.write(&format!("  {text}\n"));
        }
    }

    /// Text that a person needs whatever the mode.
    pub(super) fn prompt(&mut self, text: &str) {
        self.close("");
        self.write(text);
    }

    /// The last words of a failing run.
    pub(super) fn fatal(&mut self, text: impl Display) {
        self.close(" failed");
        if self.progress {
            self.write("\n");
        }
        if !self.quiet {
            let _ = writeln!(self.streams.err, "htgettoken: {text}");
            let _ = self.streams.err.flush();
        }
    }

    fn close(&mut self, with: &str) {
        if std::mem::take(&mut self.open_step) {
            self.write(&format!("{with}\n"));
        }
    }

    /// One write, flushed: a log in a pipe must show the login URL while the login waits. That nobody reads is no failure.
    fn write(&mut self, text: &str) {
        let stream = if self.to_stderr {
            &mut self.streams.err
        } else {
            &mut self.streams.out
        };
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.flush();
    }
}

impl Log for Report<'_, '_> {
    fn shows_requests(&self) -> bool {
        self.debug
    }

    fn shows_secrets(&self) -> bool {
        self.secrets
    }

    fn request_line(&mut self, line: &str) {
        if self.debug {
            self.write(&format!("  {line}\n"));
        }
    }
}
