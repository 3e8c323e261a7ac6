//! Reads JSON with the numbers and the rules about keys that YAML has.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{
    ReadDocument,
    fault::{PathStep, TextFault, TextFaultKind, TextFaults},
    scalar::Scalar,
};

/// Reads the next value of a stream of JSON values; `None` at its end.
pub(in super::super) fn read_json(
    stream: &mut serde_json::Deserializer<serde_json::de::StrRead<'_>>,
) -> serde_json::Result<ReadDocument> {
    let mut faults = TextFaults::default();
    let value = JsonReader(&mut faults).deserialize(stream)?;
    for fault in &mut faults.0 {
        fault.path.reverse();
    }
    Ok(ReadDocument {
        value,
        faults: faults.0,
    })
}

/// Adds each key that is given twice to a list. Paths of faults are collected from the innermost step.
struct JsonReader<'a>(&'a mut TextFaults);

impl JsonReader<'_> {
    /// Reads a value and adds a step to the paths of its faults.
    fn below<T>(
        &mut self,
        step: impl Fn() -> PathStep,
        read: impl FnOnce(JsonReader<'_>) -> T,
    ) -> T {
        let known = self.0.0.len();
        let value = read(JsonReader(self.0));
        for fault in &mut self.0.0[known..] {
            fault.path.push(step());
        }
        value
    }
}

impl<'de> DeserializeSeed<'de> for JsonReader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonReader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    #[expect(clippy::cast_precision_loss)] // as kubectl has numbers beyond 64 bits
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or_else(|_| Value::from(value as f64), Value::from))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Scalar::number(value).value(""))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let index = items.len();
            let item = self.below(
                || PathStep::Index(index),
                |reader| list.next_element_seed(reader),
            )?;
            let Some(item) = item else {
                return Ok(items.into());
            };
            items.push(item);
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut object: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = object.next_key::<String>()? {
            let value = self.below(
                || PathStep::Field(name.clone()),
                |reader| object.next_value_seed(reader),
            )?;
            if fields.contains_key(&name) {
                self.0.add(TextFault {
                    path: vec![PathStep::Field(name.clone())],
                    line: None,
                    kind: TextFaultKind::DuplicateKey,
                });
            }
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}
