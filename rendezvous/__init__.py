"""The rendezvous server: docs/protocol/rendezvous.md says what it does, docs/server.md how to run one."""
