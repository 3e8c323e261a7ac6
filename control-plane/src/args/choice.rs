//! Choices of the injector's, with what each means.

/// An enumeration of the injector's, as a value on the command line.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl From<$name> for evermesh_injector::settings::$name {
            fn from(chosen: $name) -> Self {
                match chosen {
                    $($name::$variant => Self::$variant,)*
                }
            }
        }
    };
}

choice! {
    /// What becomes of a pod without a member.
    WithoutMember {
        /// It is refused, and the message says what was looked at
        Refuse,
        /// It is created as it is, with a warning
        Skip,
    }
}

choice! {
    /// What becomes of a pod with an annotation that cannot be read.
    MalformedAnnotation {
        /// It is refused
        Refuse,
        /// The annotation's default holds, with a warning
        Warn,
    }
}

choice! {
    /// Where sidecars stand in a pod.
    SidecarOrder {
        /// Init containers that go on running: the application starts when its proxy is ready, and Jobs end
        Native,
        /// Containers after the application's, which may start before its proxy is ready
        Container,
    }
}
