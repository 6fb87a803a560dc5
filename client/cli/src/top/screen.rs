// SPDX-License-Identifier: MIT OR Apache-2.0

//! The screen of `dmaplane top`: draws the view, and waits for the next reading or a key.

use std::time::{Duration, Instant};

use anyhow::Result;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use ratatui::{DefaultTerminal, Frame};

use super::view::{Reading, View};
use crate::interrupt::Interrupt;

/// Shows one view after the other until the user has enough.
pub(super) fn live(
    terminal: &mut DefaultTerminal,
    interval: Duration,
    stuck_ms: u64,
    take: impl Fn() -> Result<Reading>,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut before = None;
    let next_event = |limit| next_event(limit, interrupt);
    loop {
        let now = take()?;
        let view = View::of(&now, before.as_ref(), stuck_ms);
        before = Some(now);
        let redraw = || {
            terminal.draw(|frame| draw(frame, &view))?;
            Ok(())
        };
        if show(interval, next_event, redraw)? {
            return Ok(());
        }
    }
}

/// The longest time until a signal is noticed.
const SIGNAL_LOOK: Duration = Duration::from_millis(100);

/// What the user does within `limit`, if anything. A signal that ends commands is returned as Ctrl-C, which arrives as
/// a key here.
fn next_event(limit: Duration, interrupt: &Interrupt) -> Result<Option<Event>> {
    let begin = Instant::now();
    loop {
        let left = limit.saturating_sub(begin.elapsed());
        if event::poll(left.min(SIGNAL_LOOK))? {
            return Ok(Some(event::read()?));
        }
        if interrupt.came()? {
            let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
            return Ok(Some(Event::Key(key)));
        }
        if left.is_zero() {
            return Ok(None);
        }
    }
}

/// Shows the view until the interval is over, and returns whether the user wants to end. Other keys and a resized
/// terminal draw it again, but do not cut the interval short: a few milliseconds have no rates.
fn show(
    interval: Duration,
    next_event: impl Fn(Duration) -> Result<Option<Event>>,
    mut redraw: impl FnMut() -> Result<()>,
) -> Result<bool> {
    let begin = Instant::now();
    redraw()?;
    while let Some(event) = next_event(interval.saturating_sub(begin.elapsed()))? {
        if ends(&event) {
            return Ok(true);
        }
        redraw()?;
    }
    Ok(false)
}

fn ends(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

fn draw(frame: &mut Frame<'_>, view: &View) {
    let mut lines: Vec<_> = view.lines().into_iter().map(styled).collect();
    lines.push(Line::from(""));
    lines.push(Line::from("q ends").style(Style::new().add_modifier(Modifier::DIM)));
    frame.render_widget(Paragraph::new(lines), frame.area());
}

/// A line in the colour that its beginning determines.
fn styled(text: String) -> Line<'static> {
    let style = if text.starts_with("STUCK") {
        Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
    } else if text.trim_start().starts_with("ENDPOINT") || text.starts_with("dmaplane:") {
        Style::new().add_modifier(Modifier::BOLD)
    } else if text.starts_with("not shown") {
        Style::new().fg(Color::Yellow)
    } else {
        Style::new()
    };
    Line::from(text).style(style)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Buffer;

    use super::super::tests::{LONG, SHORT, endpoint, lines, view};
    use super::*;

    /// What a terminal of this size shows.
    fn drawn(view: &View, width: u16, height: u16) -> Buffer {
        let backend = TestBackend::new(width, height);
        let mut terminal = Terminal::new(backend).expect("a terminal");
        terminal.draw(|frame| draw(frame, view)).expect("drawn");
        terminal.backend().buffer().clone()
    }

    /// Its lines.
    fn rows(buffer: &Buffer) -> Vec<String> {
        let width = usize::from(buffer.area.width).max(1);
        let rows = buffer.content.chunks(width);
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect())
            .collect()
    }

    /// The number of the line that begins with this.
    fn place(rows: &[String], begin: &str) -> u16 {
        let place = rows
            .iter()
            .position(|row| row.trim_start().starts_with(begin));
        let place = place.unwrap_or_else(|| panic!("no {begin:?} in {rows:#?}"));
        u16::try_from(place).expect("a line of a screen")
    }

    /// An endpoint that has written since, with a write that waits for its peer.
    fn stuck() -> View {
        let before = endpoint(7, &[("write", &[(SHORT, 1000)])]);
        let mut now = endpoint(7, &[("write", &[(SHORT, 1000), (LONG, 10)])]);
        now.operations = lines(&[
            "endpoint=3 op=write_imm trace_id=4242 age_ns=12433188020 waits_on=peer-receives",
            "endpoint=3 op=recv trace_id=4243 age_ns=99433188020 waits_on=arrival",
        ]);
        view(Some(before), now)
    }

    #[test]
    fn the_head_counts_and_stands_out() {
        let buffer = drawn(&stuck(), 140, 20);
        let rows = rows(&buffer);
        assert!(rows[0].starts_with("dmaplane: "), "{rows:#?}");
        assert!(rows[0].contains(" 1 endpoints, "), "{rows:#?}");
        let heading = place(&rows, "ENDPOINT PEER");
        for line in [0, heading] {
            let style = buffer[(8, line)].style();
            assert!(style.add_modifier.contains(Modifier::BOLD), "line {line}");
        }
        place(&rows, "q ends");
    }

    #[test]
    fn an_endpoint_has_its_live_figures() {
        let rows = rows(&drawn(&stuck(), 140, 20));
        let row: Vec<_> = rows[usize::from(place(&rows, "3 10.77.0.2"))]
            .split_whitespace()
            .collect();
        let wanted = [
            "3",
            "10.77.0.2:41000",
            "up",
            "5",
            "20",
            "KiB",
            "write",
            "16.6",
            "16.6",
            "16.6",
            "16",
            "1",
            "2",
            "4",
        ];
        assert_eq!(row, wanted);
    }

    #[test]
    fn what_is_stuck_is_named_in_red() {
        let buffer = drawn(&stuck(), 140, 20);
        let rows = rows(&buffer);
        let line = place(&rows, "STUCK");
        let text = rows[usize::from(line)].trim_end();
        assert_eq!(
            text,
            "STUCK 12.4 s: trace 4242 write_imm on endpoint 3 to 10.77.0.2:41000: \
             the peer has posted no receive (no credits)"
        );
        assert_eq!(buffer[(0, line)].fg, Color::Red);
        // A receive may wait as long as it wants.
        assert!(!rows.iter().any(|row| row.contains("4243")), "{rows:#?}");
    }

    #[test]
    fn any_terminal_will_do() {
        for (width, height) in [(20, 5), (1, 1), (1, 40), (300, 1), (0, 0)] {
            let rows = rows(&drawn(&stuck(), width, height));
            let first: String = "dmaplane: ".chars().take(width.into()).collect();
            assert!(height == 0 || rows[0].starts_with(&first), "{rows:#?}");
        }
    }

    /// Shows the view for an hour while these keys are pressed. Returns whether a key ended it, and how often it was
    /// drawn.
    fn shown(keys: &[KeyCode]) -> (bool, u32) {
        let pressed = RefCell::new(keys.iter());
        let mut drawn = 0;
        let ended = show(
            Duration::from_secs(3600),
            |limit| {
                assert!(limit > Duration::from_secs(3500), "{limit:?}");
                let key = pressed.borrow_mut().next();
                Ok(key.map(|key| Event::Key((*key).into())))
            },
            || {
                drawn += 1;
                Ok(())
            },
        );
        (ended.expect("nothing fails"), drawn)
    }

    #[test]
    fn no_key_cuts_an_interval_short() {
        assert_eq!(shown(&[]), (false, 1));
        assert_eq!(shown(&[KeyCode::Down, KeyCode::Char('x')]), (false, 3));
    }

    #[test]
    fn some_keys_end() {
        assert_eq!(shown(&[KeyCode::Down, KeyCode::Char('q')]), (true, 2));
        assert_eq!(shown(&[KeyCode::Esc]), (true, 1));
        assert_eq!(shown(&[KeyCode::Char('c')]), (false, 2));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(ends(&Event::Key(interrupt)));
        assert!(!ends(&Event::Resize(80, 24)));
    }
}
