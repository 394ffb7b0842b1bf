//! What the programs do with packets, and switching that from outside.

use std::{mem::offset_of, os::fd::AsFd as _};

use aya::maps::MapData;
use evenkeel_maps::{self as maps, Settings, map};

use crate::{
    Error,
    pins::{self, Pins},
    shared::{Elements as _, SharedArray, Words as _},
};

/// What the programs do with packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Balance them.
    #[default]
    Active,
    /// Count what would be balanced and let it pass.
    Observe,
    /// Let everything pass.
    Bypass,
}

impl Mode {
    /// The name in output and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Observe => "observe",
            Self::Bypass => "bypass",
        }
    }

    pub(crate) const fn raw(self) -> u32 {
        match self {
            Self::Active => maps::mode::ACTIVE,
            Self::Observe => maps::mode::OBSERVE,
            Self::Bypass => maps::mode::BYPASS,
        }
    }

    const fn from_raw(raw: u32) -> Self {
        match raw {
            maps::mode::OBSERVE => Self::Observe,
            maps::mode::BYPASS => Self::Bypass,
            _ => Self::Active,
        }
    }
}

/// Changes what the programs of `node` do with packets, at once and whether or not an agent runs: in an incident it may be
/// dead, or not answer. Returns what they did before; `None`: the node has no data plane.
///
/// # Errors
/// When the pinned settings cannot be reached, or are another build's.
pub fn switch_mode(node: &str, mode: Mode) -> Result<Option<Mode>, Error> {
    let path = Pins::map_of(node, map::SETTINGS);
    if !pins::exists(&path)? {
        return Ok(None);
    }
    let map_error = |source| Error::Map { map: map::SETTINGS, source };
    let data = MapData::from_pin(&path).map_err(map_error)?;
    let info = data.info().map_err(map_error)?;
    if info.value_size() as usize != size_of::<Settings>() || info.max_entries() != 1 {
        return Err(Error::OtherLayout(map::SETTINGS));
    }
    let settings =
        SharedArray::map(data.fd().as_fd(), 1).map_err(|source| Error::MapCall { map: map::SETTINGS, source })?;
    Ok(Some(set(&settings, mode)))
}

pub(crate) fn get(settings: &SharedArray<Settings>) -> Mode {
    Mode::from_raw(settings.read(0).mode)
}

/// Returns the mode before. Others may write it, and the settings beside it, at the same time: only this word is written.
pub(crate) fn set(settings: &SharedArray<Settings>, mode: Mode) -> Mode {
    loop {
        let before = settings.read(0).mode;
        if settings.exchange(0, offset_of!(Settings, mode), before, mode.raw()) {
            return Mode::from_raw(before);
        }
    }
}
