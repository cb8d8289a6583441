//! How a session begins: who is at the other end, of which folder, and under which takeovers.

use crate::device::{FolderId, IndexId};
use crate::disk::Disk;
use crate::error::{StoreError, Violation};
use crate::fence::{Fence, Tenure};
use crate::index::Index;
use crate::status::Event;
use crate::wire::{Message, VERSION};

use super::{Engine, SessionId};

impl<D: Disk, I: Index> Engine<D, I> {
    pub(super) fn hello(&mut self, id: SessionId, message: Message) -> Result<(), StoreError> {
        let Message::Hello { version, folder, device, index, fences, tenure } = message else {
            unreachable!("only Hello comes here");
        };
        let session = self.sessions.get_mut(&id).expect("the caller checked the session");
        if session.peer.is_some() {
            session.fail(Violation::Order("a second Hello"));
        } else if version != VERSION {
            session.fail(Violation::Order("the peer speaks another version of the protocol"));
        } else if device == self.meta.device {
            session.fail(Violation::Myself);
        } else if let Some(expected) = session.expect.filter(|expected| *expected != device) {
            session.fail(Violation::WrongDevice { expected, found: device });
        }
        if session.ended.is_some() {
            return Ok(());
        }
        session.peer = Some(device);
        session.summary.peer = Some(device);
        self.event(Event::Connected(device));
        self.stated(id, folder, index, &fences, tenure)?;
        self.restart_restores();
        Ok(())
    }

    /// A peer says, in the beginning or anew, where it stands.
    pub(super) fn stated(
        &mut self,
        id: SessionId,
        folder: Option<FolderId>,
        index: IndexId,
        fences: &[Fence],
        tenure: Tenure,
    ) -> Result<(), StoreError> {
        self.agree(id, folder)?;
        self.learn(id, fences)?;
        self.learn_tenure(id, fences, tenure)?;
        self.ask(id, index)
    }

    /// Both must be replicas of one folder; one that has no identity yet takes the other's. While neither has, the
    /// session waits: nothing is asked for.
    fn agree(&mut self, id: SessionId, folder: Option<FolderId>) -> Result<(), StoreError> {
        match (self.meta.folder, folder) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                let session = self.sessions.get_mut(&id).expect("the caller checked the session");
                session.fail(Violation::WrongFolder { ours, theirs });
            }
            (None, Some(theirs)) => {
                self.meta.folder = Some(theirs);
                self.uncommitted = true;
                self.founded = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes over the fences that a peer knows. A claim that cannot be true ends its session.
    fn learn(&mut self, id: SessionId, fences: &[Fence]) -> Result<(), StoreError> {
        if let Err(split) = self.adopt(fences)? {
            self.problem(None, split);
            self.sessions.get_mut(&id).expect("the caller checked the session").fail(Violation::Split(split));
        }
        Ok(())
    }
}
