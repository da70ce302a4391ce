"""Hooks for transactional steps: the transaction of a library in place of the engine's own.

Each module needs its library, and nothing else imports it: `contrib.sqlalchemy`, `contrib.django`.
"""
