-- Tokens of pictures, which cost other than text; in the events alone, as no report sums them yet.

ALTER TABLE events
    ADD COLUMN image_input_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN image_output_tokens bigint NOT NULL DEFAULT 0;
