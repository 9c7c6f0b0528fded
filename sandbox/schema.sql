-- The two tables of Plunk's database that the relay reads, as Prisma makes them.
CREATE TABLE IF NOT EXISTS projects (
  id text PRIMARY KEY,
  name text NOT NULL,
  public text NOT NULL UNIQUE,
  secret text NOT NULL UNIQUE,
  disabled boolean NOT NULL DEFAULT false
);
CREATE TABLE IF NOT EXISTS domains (
  id text PRIMARY KEY,
  "projectId" text NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  domain text NOT NULL,
  verified boolean NOT NULL DEFAULT false,
  UNIQUE ("projectId", domain)
);
