"""What Qwen's families of vision-language models share: how they write a conversation, its vocabulary, pictures."""
