//! The first bytes inside a proven stream: which folder it is about, and whether the other side wants that.

use std::io;
use std::time::Duration;

use syncfs::greeting::{Answer, BYTES_MAX, Greeting, GreetingError, Label, Refusal};
use syncfs::tls::TlsError;
use syncfs::{DeviceId, FolderId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How long either side may take to say its part.
pub const GREETING_DEADLINE: Duration = Duration::from_secs(10);

/// Why a stream did not become a session.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The stream broke.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// Its other end did not prove who it is.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It did not say in time what it wants, or whether it is wanted.
    #[error("no greeting within {} s", GREETING_DEADLINE.as_secs())]
    Slow,
    /// It does not speak this protocol.
    #[error("{0}: run the same version on both sides")]
    Greeting(#[from] GreetingError),
    /// The other side does not want this.
    #[error("{0}")]
    Refused(Refusal),
    /// We do not want this.
    #[error("{device} was turned away: {why}")]
    TurnedAway {
        /// Who it is.
        device: DeviceId,
        /// Why, in words about this side.
        why: &'static str,
        /// What it is told.
        told: Refusal,
    },
}

impl DoorError {
    /// The reason as a short fixed word, to count by.
    pub fn reason(&self) -> &'static str {
        let refusal = |refusal: &Refusal| match refusal {
            Refusal::UnknownDevice => "unknown-device",
            Refusal::UnknownFolder => "unknown-folder",
            Refusal::Ambiguous => "ambiguous-folder",
            Refusal::Connected => "connected",
            Refusal::Version => "version",
            _ => "other",
        };
        match self {
            Self::Io(_) => "io",
            Self::Tls(error) => error.reason(),
            Self::Slow => "slow",
            Self::Greeting(_) => "greeting",
            Self::Refused(why) => refusal(why),
            Self::TurnedAway { told, .. } => refusal(told),
        }
    }
}

/// Every [`DoorError::reason`].
pub const REASONS: [&str; 13] = [
    "io",
    "slow",
    "wrong-device",
    "handshake",
    "greeting",
    "unknown-device",
    "unknown-folder",
    "ambiguous-folder",
    "connected",
    "version",
    "wrong-folder",
    "other",
    "session",
];

/// The dialler's side: says what it wants and waits until it is welcome.
pub async fn greet<S>(stream: &mut S, greeting: &Greeting) -> Result<(), DoorError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let exchange = async {
        send(stream, &greeting.encode()).await?;
        match Answer::decode(&receive(stream).await?)? {
            Answer::Welcome => Ok(()),
            Answer::Refused(refusal) => Err(DoorError::Refused(refusal)),
        }
    };
    tokio::time::timeout(GREETING_DEADLINE, exchange).await.map_err(|_| DoorError::Slow)?
}

/// The listener's side: what does the dialler want?
pub async fn greeted<S>(stream: &mut S) -> Result<Greeting, DoorError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let bytes = tokio::time::timeout(GREETING_DEADLINE, receive(stream)).await;
    Ok(Greeting::decode(&bytes.map_err(|_| DoorError::Slow)??)?)
}

/// The listener's answer.
pub async fn answer<S>(stream: &mut S, answer: Answer) -> Result<(), DoorError>
where
    S: AsyncWrite + Unpin,
{
    let sent = tokio::time::timeout(GREETING_DEADLINE, send(stream, &answer.encode())).await;
    Ok(sent.map_err(|_| DoorError::Slow)??)
}

/// A folder that a listener shares with the dialler.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Its place in the daemon.
    pub place: usize,
    /// Its identity, if it has one yet.
    pub folder: Option<FolderId>,
    /// Its label, if it has one.
    pub label: Option<&'a Label>,
}

/// Which of the folders that are shared with a dialler it means: the one of its label; else the one of its identity;
/// else the only one, unless that is called something else. Whether two replicas fit is the session's own question.
pub fn choose(offers: &[Offer<'_>], greeting: &Greeting) -> Result<usize, Refusal> {
    let by_label = |offer: &&Offer<'_>| greeting.label.is_some() && offer.label == greeting.label.as_ref();
    let by_folder = |offer: &&Offer<'_>| greeting.folder.is_some() && offer.folder == greeting.folder;
    if let Some(offer) = offers.iter().find(by_label).or_else(|| offers.iter().find(by_folder)) {
        return Ok(offer.place);
    }
    match offers {
        [only] if only.label.is_none() || greeting.label.is_none() => Ok(only.place),
        [] | [_] => Err(Refusal::UnknownFolder),
        _ if greeting.label.is_none() => Err(Refusal::Ambiguous),
        _ => Err(Refusal::UnknownFolder),
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).expect("a greeting is at most BYTES_MAX long");
    stream.write_all(&[&length.to_le_bytes()[..], bytes].concat()).await?;
    stream.flush().await
}

/// Nothing beyond the greeting is consumed.
async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, DoorError> {
    let length = usize::from(stream.read_u16_le().await?);
    if length > BYTES_MAX {
        return Err(GreetingError::Foreign.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> Label {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_greeting_is_answered_and_nothing_beyond_it_is_consumed() {
        let (mut left, mut right) = tokio::io::duplex(1 << 10);
        let greeting = Greeting { folder: None, label: Some(label("notes")) };
        let dialler = async {
            greet(&mut left, &greeting).await.unwrap();
            left.write_all(b"first message").await.unwrap();
            left.shutdown().await.unwrap();
        };
        let listener = async {
            assert_eq!(greeted(&mut right).await.unwrap(), greeting);
            answer(&mut right, Answer::Welcome).await.unwrap();
            let mut rest = Vec::new();
            right.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"first message");
        };
        tokio::join!(dialler, listener);
    }

    #[tokio::test]
    async fn a_refusal_arrives_as_what_it_is() {
        let (mut left, mut right) = tokio::io::duplex(1 << 10);
        let listener = async {
            greeted(&mut right).await.unwrap();
            answer(&mut right, Answer::Refused(Refusal::UnknownDevice)).await.unwrap();
        };
        let greeting = Greeting::default();
        let (greeted, ()) = tokio::join!(greet(&mut left, &greeting), listener);
        assert!(matches!(greeted, Err(DoorError::Refused(Refusal::UnknownDevice))));
    }

    #[tokio::test]
    async fn what_is_no_greeting_is_turned_away() {
        for bytes in [&b"\xff\xffxxxx"[..], b"\x03\x00GET", b"\x00\x00", b"\x06\x00sfg\x02\x00\x00"] {
            let (mut left, mut right) = tokio::io::duplex(1 << 10);
            left.write_all(bytes).await.unwrap();
            assert!(matches!(greeted(&mut right).await, Err(DoorError::Greeting(_))), "{bytes:?}");
        }
        let (left, mut right) = tokio::io::duplex(1 << 10);
        drop(left);
        assert!(matches!(greeted(&mut right).await, Err(DoorError::Io(_))));
    }

    #[test]
    fn a_folder_is_found_by_label_then_identity_then_because_it_is_the_only_one() {
        let (notes, media, other) = (label("notes"), label("media"), label("other"));
        let [one, two] = [[1; 16], [2; 16]].map(FolderId::from_bytes);
        let offers = [
            Offer { place: 3, folder: Some(one), label: Some(&notes) },
            Offer { place: 5, folder: Some(two), label: Some(&media) },
        ];
        let ask = |offers: &[Offer<'_>], folder: Option<FolderId>, label: Option<&Label>| {
            choose(offers, &Greeting { folder, label: label.cloned() })
        };
        assert_eq!(ask(&offers, None, Some(&media)), Ok(5));
        assert_eq!(ask(&offers, Some(one), Some(&media)), Ok(5), "the session will say that they differ");
        assert_eq!(ask(&offers, Some(one), None), Ok(3));
        assert_eq!(ask(&offers, None, None), Err(Refusal::Ambiguous));
        assert_eq!(ask(&offers, None, Some(&other)), Err(Refusal::UnknownFolder));
        assert_eq!(ask(&offers[..1], None, None), Ok(3));
        assert_eq!(ask(&offers[..1], None, Some(&other)), Err(Refusal::UnknownFolder));
        assert_eq!(ask(&[Offer { label: None, ..offers[0] }], None, Some(&other)), Ok(3));
        assert_eq!(ask(&[], None, None), Err(Refusal::UnknownFolder));
    }
}
