//! The macros that write lines.
//!
//! ```
//! let (name, count) = ("test", 3);
//! cf::info!(Service, "listening on {name}");
//! cf::warning!(Nsup, {name}, "evicted {count}"); // the text begins with `{test} `
//! cf::warning_limited!(Proto, "bad proto version {count}"); // where a client sets the rate
//! if cf::log_enabled!(RwClient, Detail) { /* costly preparations */ }
//! ```
//!
//! A line that no sink wants costs one relaxed atomic load and a comparison; its arguments are not evaluated.

/// True when some sink wants lines of this context and level.
#[macro_export]
macro_rules! log_enabled {
    ($context:ident, $level:ident) => {
        $crate::log::enabled($crate::log::Context::$context, $crate::log::Level::$level)
    };
}

/// Writes a line of a level named by its variant: `log_line!(Info, Service, "…")`.
#[macro_export]
macro_rules! log_line {
    ($level:ident, $context:ident, {$namespace:expr}, $($text:tt)+) => {
        if $crate::log_enabled!($context, $level) {
            $crate::log::write(
                $crate::log::Context::$context,
                $crate::log::Level::$level,
                $crate::log::Place { file: file!(), line: line!() },
                format_args!("{{{}}} {}", $namespace, format_args!($($text)+)),
            );
        }
    };
    ($level:ident, $context:ident, $($text:tt)+) => {
        if $crate::log_enabled!($context, $level) {
            $crate::log::write(
                $crate::log::Context::$context,
                $crate::log::Level::$level,
                $crate::log::Place { file: file!(), line: line!() },
                format_args!($($text)+),
            );
        }
    };
}

/// Writes a line of a level named by its variant, at a limited rate (see [`CallSite`](crate::log::CallSite)).
#[macro_export]
macro_rules! log_line_limited {
    ($level:ident, $context:ident, {$namespace:expr}, $($text:tt)+) => {
        $crate::log_line_limited!(
            $level, $context, "{{{}}} {}", $namespace, format_args!($($text)+)
        )
    };
    ($level:ident, $context:ident, $($text:tt)+) => {
        if $crate::log_enabled!($context, $level) {
            static SITE: $crate::log::CallSite = $crate::log::CallSite::new(
                $crate::log::Context::$context,
                $crate::log::Level::$level,
                $crate::log::Place { file: file!(), line: line!() },
            );
            SITE.write(format_args!($($text)+));
        }
    };
}

/// Writes a CRITICAL line: the server is about to end. The line is on disk on return.
#[macro_export]
macro_rules! critical {
    ($context:ident, $($rest:tt)+) => { $crate::log_line!(Critical, $context, $($rest)+) };
}

/// Writes a WARNING line.
#[macro_export]
macro_rules! warning {
    ($context:ident, $($rest:tt)+) => { $crate::log_line!(Warning, $context, $($rest)+) };
}

/// Writes an INFO line.
#[macro_export]
macro_rules! info {
    ($context:ident, $($rest:tt)+) => { $crate::log_line!(Info, $context, $($rest)+) };
}

/// Writes a DEBUG line.
#[macro_export]
macro_rules! debug {
    ($context:ident, $($rest:tt)+) => { $crate::log_line!(Debug, $context, $($rest)+) };
}

/// Writes a DETAIL line.
#[macro_export]
macro_rules! detail {
    ($context:ident, $($rest:tt)+) => { $crate::log_line!(Detail, $context, $($rest)+) };
}

/// Writes a WARNING line that a client, a peer or a disk can cause at any rate.
#[macro_export]
macro_rules! warning_limited {
    ($context:ident, $($rest:tt)+) => { $crate::log_line_limited!(Warning, $context, $($rest)+) };
}

/// Writes an INFO line that a client, a peer or a disk can cause at any rate.
#[macro_export]
macro_rules! info_limited {
    ($context:ident, $($rest:tt)+) => { $crate::log_line_limited!(Info, $context, $($rest)+) };
}
