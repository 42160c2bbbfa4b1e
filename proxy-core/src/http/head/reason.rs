//! Why a message is not carried on: one variant, one counter, one word for the log, one sentence for who sent it.
//!
//! What can be wrong with requests and responses alike stands in [`BadHead`] and [`BadChunk`]; [`BadRequest`] and
//! [`BadResponse`] hold the same reasons and their own.

use crate::reasons::reasons;

/// Makes [`BadHead`] and [`BadChunk`] of their own rows, or an enum that has them all and the rows it is given.
macro_rules! shared {
    (@ head { $($head:tt)* } chunk { $($chunk:tt)* } alone) => {
        reasons! {
            /// What can be wrong with the head of a request and of a response.
            BadHead { $($head)* }
        }
        reasons! {
            /// What can be wrong with a chunked body.
            BadChunk { $($chunk)* }
        }
    };
    (@ head { $($head:ident $why:literal $sentence:literal)* } chunk { $($chunk:ident $w:literal $s:literal)* }
        $(#[$meta:meta])* $name:ident { $($own:tt)* }) => {
        reasons! {
            $(#[$meta])*
            $name { $($head $why $sentence)* $($chunk $w $s)* $($own)* }
        }

        impl From<BadHead> for $name {
            fn from(reason: BadHead) -> Self {
                match reason {
                    $(BadHead::$head => Self::$head,)*
                }
            }
        }

        impl From<BadChunk> for $name {
            fn from(reason: BadChunk) -> Self {
                match reason {
                    $(BadChunk::$chunk => Self::$chunk,)*
                }
            }
        }
    };
    ($($own:tt)*) => {
        shared! { @
            head {
                HeadTooLong "head_too_long" "The header section is longer than is accepted here."
                TooManyFields "too_many_fields" "There are more header fields than are accepted here."
                Version "version" "Only HTTP/1.0 and HTTP/1.1 are spoken here."
                BareLf "bare_lf" "A line ends with LF alone; it must end with CR LF."
                BareCr "bare_cr" "There is a CR that no LF follows."
                Nul "nul" "There is a NUL byte in the header section."
                ObsFold "obs_fold" "A header line begins with white space; folded lines are obsolete."
                SpaceBeforeColon "space_before_colon" "There is white space between a field name and its colon."
                FieldName "field_name" "A header line has no valid field name with a colon."
                FieldValue "field_value" "A field value contains a control character."
                ContentLength "content_length" "Content-Length is not a decimal number."
                ContentLengthRepeated "content_length_repeated" "There is more than one Content-Length."
                LengthAndEncoding "length_and_encoding" "There are both Content-Length and Transfer-Encoding."
                TransferEncoding "transfer_encoding" "The only Transfer-Encoding accepted here is chunked, once."
                EncodingInHttp10 "encoding_in_http10" "HTTP/1.0 has no Transfer-Encoding."
                LookAlike "look_alike" "A field name looks like Content-Length or Transfer-Encoding, but is not."
                ConnectionOptions "connection_options" "There are too many options in Connection."
            }
            chunk {
                ChunkSize "chunk_size" "A chunk size is not one to sixteen hexadecimal digits, or too big."
                ChunkExtension "chunk_extension" "A chunk extension is too long or contains a control character."
                ChunkEnd "chunk_end" "A chunk or its size does not end with CR LF."
                Trailer "trailer" "A trailer field is malformed."
                TrailerForbidden "trailer_forbidden" "A trailer field must not be one that frames or routes the message."
                TrailerTooLong "trailer_too_long" "The trailer section is longer than is accepted here."
            }
            $($own)*
        }
    };
}

shared! { alone }

shared! {
    /// Why a request is refused. Nothing that follows it on the connection can be trusted.
    BadRequest {
        LeadingLines "leading_lines" "There is more than one empty line before the request."
        RequestLine "request_line" "The request line is not a method, a target and a version with one space between."
        Method "method" "The method is not a token of at most 32 characters."
        Target "target" "The request target is not acceptable."
        Connect "connect" "CONNECT is not offered here."
        HostMissing "host_missing" "There is no Host header."
        HostRepeated "host_repeated" "There is more than one Host header."
        Host "host" "The Host header is not a host name or address with an optional port."
        HostMismatch "host_mismatch" "The request target and the Host header name different hosts."
        Expectation "expectation" "The only expectation known here is 100-continue."
        Truncated "truncated" "The connection ended within the header section."
    }
}

shared! {
    /// Why a server's response is not passed on. The connection it came on is not used again.
    BadResponse {
        StatusLine "status_line" "The status line is not a version, a status and a reason with one space between."
        Status "status" "The status is below 100."
        BodyForbidden "body_forbidden" "A response that can't have a body announces one."
        Surplus "surplus" "There are bytes that belong to no response."
        TooManyInterim "too_many_interim" "There is no end of interim responses."
        UnaskedUpgrade "unasked_upgrade" "The server switches protocols, which nobody asked for."
    }
}

reasons! {
    /// What was wrong with HTTP/2 itself. `malformed` ends a stream, everything else its connection.
    BadHttp2 {
        Malformed "malformed" "A request in HTTP/2 is malformed."
        Protocol "protocol" "Frames break the rules of HTTP/2."
        Resets "resets" "Too many streams are reset."
        Continuations "continuations" "A header section comes in too many frames."
        Settings "settings" "Settings change too often."
        Pings "pings" "There are too many pings."
        Priorities "priorities" "Priorities change too often."
        EmptyData "empty_data" "There are too many DATA frames with nothing in them."
        WindowUpdates "window_updates" "Windows open in too small steps."
        UnknownFrames "unknown_frames" "There are too many frames of unknown kinds."
        Excess "excess" "Header sections are far too long, or DATA frames far too small."
    }
}

impl BadRequest {
    /// The status to answer with.
    pub fn status(self) -> u16 {
        match self {
            Self::Connect => 405,
            Self::Expectation => 417,
            Self::Version => 505,
            _ => 400,
        }
    }
}
