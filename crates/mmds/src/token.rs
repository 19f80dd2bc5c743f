//! Session tokens: when they expire, sealed under a key that only this process knows.
//!
//! ```text
//!   base64( nonce: 12 bytes | expiry in ms, encrypted: 8 bytes | tag: 16 bytes )
//! ```
//!
//! Nothing is stored for a token, so a guest can ask for as many as it likes. The instance's id is
//! authenticated with it, so that a token of one machine is none of another, and a machine that is
//! restored from a snapshot has another key.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64ct::{Base64, Encoding};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};

use crate::Error;

/// The shortest life of a token.
pub const LIFETIME_SECONDS_MIN: u32 = 1;
/// The longest life of a token: six hours.
pub const LIFETIME_SECONDS_MAX: u32 = 21600;
/// Characters of what may be a token; longer ones are not looked at.
pub const TOKEN_CHARACTERS_MAX: usize = 70;

const NONCE: usize = 12;
const EXPIRY: usize = 8;
const TAG: usize = 16;

/// Issues tokens and knows its own again.
pub(crate) struct Tokens {
    cipher: ChaCha20Poly1305,
    owner: String,
    issued: AtomicU64,
}

impl Tokens {
    /// Tokens of the instance `instance_id`, under `key`.
    pub(crate) fn new(key: [u8; 32], instance_id: &str) -> Self {
        Self {
            cipher: ChaCha20Poly1305::new(&key.into()),
            owner: format!("microvmid={instance_id}"),
            issued: AtomicU64::new(0),
        }
    }

    /// A token that lives so many seconds from `now` on.
    pub(crate) fn issue(&self, seconds: u32, now: Duration) -> Result<String, Error> {
        if !(LIFETIME_SECONDS_MIN..=LIFETIME_SECONDS_MAX).contains(&seconds) {
            return Err(Error::Lifetime(seconds));
        }
        let expiry = milliseconds(now).saturating_add(u64::from(seconds) * 1000);
        let mut token = [0; NONCE + EXPIRY + TAG];
        let (nonce, sealed) = token.split_at_mut(NONCE);
        let (text, tag) = sealed.split_at_mut(EXPIRY);
        // A counter never repeats under a key (RFC 8439, 2.8: unique, not random).
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        nonce[NONCE - 8..].copy_from_slice(&number.to_be_bytes());
        text.copy_from_slice(&expiry.to_le_bytes());
        let unique = Nonce::try_from(&*nonce).expect("it has 12 bytes");
        let made = self.cipher.encrypt_inout_detached(&unique, self.owner.as_bytes(), text.into());
        tag.copy_from_slice(&made.expect("8 bytes are not too long"));
        Ok(Base64::encode_string(&token))
    }

    /// Whether `token` was issued here and lives at `now`.
    pub(crate) fn is_valid(&self, token: &str, now: Duration) -> bool {
        self.expiry(token).is_some_and(|expiry| milliseconds(now) < expiry)
    }

    fn expiry(&self, token: &str) -> Option<u64> {
        if token.len() > TOKEN_CHARACTERS_MAX {
            return None;
        }
        let mut token = Base64::decode_vec(token).ok()?;
        let (nonce, sealed) = token.split_at_mut_checked(NONCE)?;
        let (text, tag) = sealed.split_at_mut_checked(EXPIRY)?;
        let (nonce, tag) = (Nonce::try_from(&*nonce).ok()?, Tag::try_from(&*tag).ok()?);
        let owner = self.owner.as_bytes();
        self.cipher.decrypt_inout_detached(&nonce, owner, (&mut *text).into(), &tag).ok()?;
        Some(u64::from_le_bytes((&*text).try_into().ok()?))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(100);

    #[test]
    fn a_token_lives_as_long_as_asked() {
        let tokens = Tokens::new([1; 32], "vm");
        let check = |seconds: u32, after: Duration, expected: bool| {
            let token = tokens.issue(seconds, START).unwrap();
            assert!(token.len() <= TOKEN_CHARACTERS_MAX);
            assert_eq!(tokens.is_valid(&token, START + after), expected, "{seconds}, {after:?}");
        };
        check(1, Duration::ZERO, true);
        check(1, Duration::from_millis(999), true);
        check(1, Duration::from_secs(1), false);
        check(21600, Duration::from_secs(21599), true);
        check(21600, Duration::from_secs(21600), false);
    }

    #[test]
    fn other_lives_are_refused() {
        let tokens = Tokens::new([1; 32], "vm");
        for seconds in [0, 21601, u32::MAX] {
            let error = tokens.issue(seconds, START).unwrap_err().to_string();
            let expected = format!(
                "Invalid time to live value provided for token: {seconds}. Please provide a value \
                 between 1 and 21600."
            );
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn only_own_tokens_are_valid() {
        let tokens = Tokens::new([1; 32], "vm");
        let token = tokens.issue(60, START).unwrap();
        assert_ne!(token, tokens.issue(60, START).unwrap());
        for other in [Tokens::new([2; 32], "vm"), Tokens::new([1; 32], "other")] {
            assert!(!other.is_valid(&token, START));
        }
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(!tokens.is_valid(&changed, START), "changed at {at}");
        }
        for bad in
            ["", "foo", "INVALID_TOKEN", &token[4..], &format!("{token}AAAA"), &"A".repeat(71)]
        {
            assert!(!tokens.is_valid(bad, START), "{bad:?}");
        }
    }
}
