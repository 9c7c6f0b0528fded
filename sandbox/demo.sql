-- The demo project: one verified domain, one unverified.
INSERT INTO projects VALUES
  ('5b1b6e0e-0000-4000-8000-000000000001', 'Demo', 'pk_demo', 'sk_demo_0123456789abcdef0123456789abcdef', false)
  ON CONFLICT DO NOTHING;
INSERT INTO domains VALUES
  ('5b1b6e0e-0000-4000-8000-000000000002', '5b1b6e0e-0000-4000-8000-000000000001', 'example.com', true),
  ('5b1b6e0e-0000-4000-8000-000000000003', '5b1b6e0e-0000-4000-8000-000000000001', 'unverified.example', false)
  ON CONFLICT DO NOTHING;
