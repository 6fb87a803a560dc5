// SPDX-License-Identifier: MIT OR Apache-2.0

//! The screen of `dmaplane top`: draws the view, and waits for the next reading or a key.

use std::time::{Duration, Instant};

use anyhow::Result;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use ratatui::{DefaultTerminal, Frame};

use super::view::{Reading, View};

/// Shows one view after the other until the user has enough.
pub(super) fn live(
    terminal: &mut DefaultTerminal,
    interval: Duration,
    stuck_ms: u64,
    take: impl Fn() -> Result<Reading>,
) -> Result<()> {
    let mut before = None;
    loop {
        let now = take()?;
        let view = View::of(&now, before.as_ref(), stuck_ms);
        before = Some(now);
        let redraw = || {
            terminal.draw(|frame| draw(frame, &view))?;
            Ok(())
        };
        if rest(interval, next_event, redraw)? {
            return Ok(());
        }
    }
}

/// What the user does within so long, if anything.
fn next_event(limit: Duration) -> Result<Option<Event>> {
    Ok(if event::poll(limit)? {
        Some(event::read()?)
    } else {
        None
    })
}

/// Shows the view until the interval is over; whether the user wants to end. Other keys and a terminal of another size
/// draw it again, but cut no interval short: a few milliseconds have no rates.
fn rest(
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

/// A line with the colour that its beginning asks for.
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

    use super::*;

    /// Rests for an hour while these keys are pressed; how it ended, and how often it was drawn.
    fn rested(keys: &[KeyCode]) -> (bool, u32) {
        let pressed = RefCell::new(keys.iter());
        let mut drawn = 0;
        let ended = rest(
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
        assert_eq!(rested(&[]), (false, 1));
        assert_eq!(rested(&[KeyCode::Down, KeyCode::Char('x')]), (false, 3));
    }

    #[test]
    fn some_keys_end() {
        assert_eq!(rested(&[KeyCode::Down, KeyCode::Char('q')]), (true, 2));
        assert_eq!(rested(&[KeyCode::Esc]), (true, 1));
        assert_eq!(rested(&[KeyCode::Char('c')]), (false, 2));
        let interrupt = event::KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(ends(&Event::Key(interrupt)));
        assert!(!ends(&Event::Resize(80, 24)));
    }
}
