//! A disk that is full, or nearly: nothing is fetched from peers until there is room again. What needs no room goes on:
//! local changes, deletions, whatever only the index takes up.

use crate::disk::{Disk, DiskError};
use crate::error::StoreError;
use crate::index::Index;
use crate::status::{Event, Pause};

use super::Engine;

/// Pause between two looks whether there is room again, in milliseconds.
pub const LOOK_FOR_ROOM_MS: u64 = 2000;

/// Whether there is room.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Why there is none.
    short: Option<String>,
    looked_ms: u64,
}

impl Room {
    pub(super) fn is_short(&self) -> bool {
        self.short.is_some()
    }

    /// When it is looked for again.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.short.as_ref().map(|_| self.looked_ms + LOOK_FOR_ROOM_MS)
    }

    /// Why there is none.
    pub(super) fn why(&self) -> Option<&String> {
        self.short.as_ref()
    }

    pub(super) fn pause(&self) -> Option<Pause> {
        let pause = |why: &String| Pause { why: why.clone(), since_ns: 0, only_receiving: true };
        self.short.as_ref().map(pause)
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Whether there is room for what a peer's version needs.
    pub(super) fn has_room(&mut self) -> Result<bool, StoreError> {
        if self.room.deadline().is_some_and(|at| at > self.now_ms) {
            return Ok(false);
        }
        match self.disk.room() {
            Ok(()) => {
                if self.room.short.take().is_some() {
                    self.event(Event::Resumed);
                    self.restart_restores();
                }
                Ok(true)
            }
            Err(error @ DiskError::Full { .. }) => {
                self.run_short(&error);
                Ok(false)
            }
            Err(error) if error.is_final() => Err(error.into()),
            // Only a step itself can tell then.
            Err(_) => Ok(true),
        }
    }

    /// Looks for room, if that is due.
    pub(super) fn look_for_room(&mut self) -> Result<(), StoreError> {
        if self.room.deadline().is_some_and(|at| at <= self.now_ms) {
            self.has_room()?;
        }
        Ok(())
    }

    /// A step found no room, or found that it would take what is to stay free.
    pub(super) fn run_short(&mut self, error: &DiskError) {
        self.room.looked_ms = self.now_ms;
        let why = error.to_string();
        if self.room.short.as_ref() != Some(&why) {
            if self.room.short.is_none() {
                self.event(Event::Paused(why.clone()));
            }
            self.room.short = Some(why);
        }
        self.stop_fetching();
    }
}
