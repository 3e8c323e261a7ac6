//! Reads the fields of an encoded message without knowing its type.

/// The value of a field on the wire.
#[derive(Debug, Clone, Copy)]
pub(super) enum WireValue<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    Delimited(&'a [u8]),
}

/// The bytes are not an encoded message.
#[derive(Debug)]
pub(super) struct Malformed;

/// The fields of a message, in the order of their bytes. The end of each field is its offset in the message.
pub(super) struct WireFields<'a> {
    message: &'a [u8],
    at: usize,
}

pub(super) struct RawField<'a> {
    pub(super) number: u32,
    pub(super) value: WireValue<'a>,
    /// Offset at which the field begins.
    pub(super) start: usize,
}

impl<'a> WireFields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { message, at: 0 }
    }

    fn read(&mut self) -> Option<RawField<'a>> {
        let start = self.at;
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => WireValue::Varint(self.varint()?),
            1 => WireValue::Fixed64(*self.take(8)?.first_chunk()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                WireValue::Delimited(self.take(length)?)
            }
            5 => WireValue::Fixed32(*self.take(4)?.first_chunk()?),
            _ => return None,
        };
        Some(RawField {
            number: u32::try_from(tag >> 3).ok()?,
            value,
            start,
        })
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.message.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.message.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

impl<'a> Iterator for WireFields<'a> {
    type Item = Result<RawField<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.message.len() {
            return None;
        }
        let field = self.read();
        if field.is_none() {
            self.at = self.message.len();
        }
        Some(field.ok_or(Malformed))
    }
}

/// The values of a packed repeated field whose type is encoded as a varint.
pub(super) fn packed_varints(packed: &[u8]) -> impl Iterator<Item = Result<u64, Malformed>> {
    let mut fields = WireFields::new(packed);
    std::iter::from_fn(move || {
        if fields.at >= packed.len() {
            return None;
        }
        let value = fields.varint();
        if value.is_none() {
            fields.at = packed.len();
        }
        Some(value.ok_or(Malformed))
    })
}
