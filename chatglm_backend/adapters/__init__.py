"""Fine-tunes beside a base model: LoRA folders of PEFT and P-Tuning v2 prefixes, read and checked."""
