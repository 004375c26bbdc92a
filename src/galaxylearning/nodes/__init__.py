"""The programs of requester, data owner, evaluator, relayer and auditor; they meet only through the ports."""
