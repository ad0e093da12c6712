//! Chat templates: as transformers renders them, within limits, and with texts that stay texts.
