//! Enumerations of the injector as flag values, each with its help text.

/// Declares a flag enumeration and its conversion into the injector's enumeration with the same variants.
macro_rules! choice {
    ($name:ident => $target:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl From<$name> for evermesh_injector::settings::$target {
            fn from(chosen: $name) -> Self {
                match chosen {
                    $($name::$variant => Self::$variant,)*
                }
            }
        }
    };
}

choice! {
    WithoutMemberArg => WithoutMember {
        /// Reject the pod; the message names the selectors that were compared
        Refuse,
        /// Create the pod without a sidecar and return a warning
        Skip,
    }
}

choice! {
    MalformedAnnotationArg => MalformedAnnotation {
        /// Reject the pod
        Refuse,
        /// Use the default of the annotation and return a warning
        Warn,
    }
}

choice! {
    SidecarOrderArg => SidecarOrder {
        /// Init container with `restartPolicy: Always` (KEP-753): the application starts once its proxy is ready, and
        /// Jobs can end
        Native,
        /// Container after those of the application, which may start before its proxy is ready
        Container,
    }
}
