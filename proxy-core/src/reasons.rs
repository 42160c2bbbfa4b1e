//! Reasons for which something is refused: one variant, one counter, one word for the log, one sentence for people.

/// Makes an enum of reasons; each row is its name, its word and its sentence.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($variant:ident $why:literal $sentence:literal)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = $sentence] $variant,)*
        }

        impl $name {
            /// All of them, each at its [`index`](Self::index).
            pub const ALL: [Self; [$($why),*].len()] = [$(Self::$variant),*];

            /// Place in [`ALL`](Self::ALL), for an array of counters.
            pub fn index(self) -> usize {
                self as usize
            }

            /// The word for metrics and logs.
            pub fn why(self) -> &'static str {
                match self {
                    $(Self::$variant => $why,)*
                }
            }

            /// What to tell a person.
            pub fn sentence(self) -> &'static str {
                match self {
                    $(Self::$variant => $sentence,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.sentence())
            }
        }

        impl std::error::Error for $name {}
    };
}

pub(crate) use reasons;
