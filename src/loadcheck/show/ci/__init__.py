"""A judgement in the forms that a CI reads: JUnit XML, CTRF JSON, a summary in Markdown, annotations."""
