//! Barriers: who has everything up to a point durably, and who lacks how much.

use crate::device::DeviceId;
use crate::disk::Disk;
use crate::error::{Lag, StoreError, WaitError};
use crate::index::{Index, Meta};
use crate::token::Token;

use super::Engine;

impl<D: Disk, I: Index> Engine<D, I> {
    /// The point that this replica has reached, for a barrier. Everything before it is committed.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        let Meta { device, index, sequence, .. } = self.meta;
        self.meta.folder.map(|folder| Token { folder, device, index, sequence })
    }

    /// Which of `peers` do not have everything up to our `token` durably; empty means that the barrier holds.
    ///
    /// # Errors
    /// [`WaitError::Foreign`] if the token is not ours, [`WaitError::Fenced`] if its writes were fenced off.
    pub fn lagging(&self, token: &Token, peers: &[DeviceId]) -> Result<Vec<Lag>, WaitError> {
        if Some(token.folder) != self.meta.folder || token.device != self.meta.device {
            return Err(WaitError::Foreign);
        }
        if token.index != self.meta.index {
            return Err(WaitError::Fenced { epoch: self.meta.fences.epoch() });
        }
        let mut lags = Vec::new();
        for &device in peers {
            let state = self.index.peer(&device).map_err(StoreError::from)?;
            let acked = if state.ours == Some(self.meta.index) { state.acked } else { 0 };
            if acked < token.sequence {
                let behind = token.sequence - acked.max(self.meta.base.min(token.sequence));
                let (connected, paused) = (self.is_connected(&device), self.peer_pause(&device));
                lags.push(Lag { device, behind, connected, paused });
            }
        }
        Ok(lags)
    }

    /// How far this replica is behind another one's token; `None` means that it has everything durably.
    ///
    /// # Errors
    /// [`WaitError::Foreign`] if the token is of another folder, [`WaitError::Fenced`] if its writes were fenced off.
    pub fn behind(&self, token: &Token) -> Result<Option<Lag>, WaitError> {
        if self.meta.folder.is_some_and(|folder| folder != token.folder) {
            return Err(WaitError::Foreign);
        }
        let theirs = match token.device == self.meta.device {
            true => Some(self.meta.index),
            false => self.index.peer(&token.device).map_err(StoreError::from)?.theirs,
        };
        let known = self.known(&token.device);
        if theirs.is_some_and(|theirs| theirs != token.index) && known >= token.sequence {
            return Err(WaitError::Fenced { epoch: self.meta.fences.epoch() });
        }
        let behind = token.sequence.saturating_sub(known);
        let connected = self.is_connected(&token.device);
        let paused = self.room.pause().map(|pause| pause.why);
        Ok((behind > 0).then_some(Lag { device: self.meta.device, behind, connected, paused }))
    }
}
