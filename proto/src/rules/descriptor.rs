//! The part of protobuf's descriptors that rules need. `prost_types` has all of it and drops the options with the rules.

use prost::Message;

use crate::pb::validate::FieldRules;

#[derive(Clone, PartialEq, Message)]
pub(super) struct FileSet {
    #[prost(message, repeated, tag = "1")]
    pub(super) file: Vec<File>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct File {
    #[prost(string, tag = "2")]
    pub(super) package: String,
    #[prost(message, repeated, tag = "4")]
    pub(super) message_type: Vec<MessageType>,
    #[prost(message, repeated, tag = "5")]
    pub(super) enum_type: Vec<EnumType>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct MessageType {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) field: Vec<Field>,
    #[prost(message, repeated, tag = "3")]
    pub(super) nested_type: Vec<MessageType>,
    #[prost(message, repeated, tag = "4")]
    pub(super) enum_type: Vec<EnumType>,
    #[prost(message, repeated, tag = "8")]
    pub(super) oneof_decl: Vec<Oneof>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Field {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(uint32, tag = "3")]
    pub(super) number: u32,
    #[prost(enumeration = "Label", tag = "4")]
    pub(super) label: i32,
    #[prost(enumeration = "FieldType", tag = "5")]
    pub(super) r#type: i32,
    /// The full name of a message or enum, after a dot.
    #[prost(string, tag = "6")]
    pub(super) type_name: String,
    #[prost(message, optional, tag = "8")]
    pub(super) options: Option<FieldOptions>,
    /// Also set on an `optional` field, which has a oneof for itself.
    #[prost(uint32, optional, tag = "9")]
    pub(super) oneof_index: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Label {
    Optional = 1,
    Required = 2,
    Repeated = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum FieldType {
    Double = 1,
    Float = 2,
    Int64 = 3,
    Uint64 = 4,
    Int32 = 5,
    Fixed64 = 6,
    Fixed32 = 7,
    Bool = 8,
    String = 9,
    Group = 10,
    Message = 11,
    Bytes = 12,
    Uint32 = 13,
    Enum = 14,
    Sfixed32 = 15,
    Sfixed64 = 16,
    Sint32 = 17,
    Sint64 = 18,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FieldOptions {
    /// `validate.rules`
    #[prost(message, optional, tag = "1071")]
    pub(super) rules: Option<FieldRules>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Oneof {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) options: Option<OneofOptions>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OneofOptions {
    /// `validate.required`
    #[prost(bool, tag = "1071")]
    pub(super) is_required: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EnumType {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) value: Vec<EnumValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EnumValue {
    #[prost(int32, tag = "2")]
    pub(super) number: i32,
}
