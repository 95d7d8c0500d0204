"""From a request to its attachments and back: select, plan, execute, record, undo."""
